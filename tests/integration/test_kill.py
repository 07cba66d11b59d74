"""kill -9 of a real orchestrator process while a real container runs."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.client import Client, Unreachable
from tests.waiting import until

pytestmark = pytest.mark.docker

LINES = 3000
PROGRAM = (
    f'i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo "line $i"; [ $((i % 300)) -eq 0 ] && sleep 0.3; done; exit 0'
)


class Host:
    """A machine whose orchestrator can be killed and started again."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._env = {
            **os.environ,
            "SAEFORGE_HOME": str(home),
            "SAEFORGE_PORT": str(port),
            "SAEFORGE_EXECUTOR": "docker",
            "SAEFORGE_API_KEY": "key",
        }
        self.client = Client(f"http://127.0.0.1:{port}", "key", retries=0)
        self.start()

    def start(self) -> None:
        argv = [sys.executable, "-m", "orchestrator.cli", "up", "--api-only"]
        self.process = subprocess.Popen(argv, env=self._env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._ready, "the orchestrator answers", self.process.poll)

    def _ready(self) -> bool:
        try:
            return self.client.health().ready
        except Unreachable:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path / "home")
    yield made
    for job in made.client.jobs(status=["running", "starting", "queued"]).items:
        made.client.cancel(job.id)
        until(lambda job=job: made.client.job(job.id).status == "cancelled", "nothing is left running")
    made.process.terminate()
    made.process.wait(15)


def test_the_same_container_finishes_with_its_log_complete(host: Host, engine_image: str) -> None:
    job = host.client.submit("container", {"image": engine_image, "command": ["/bin/sh", "-c", PROGRAM]})
    until(lambda: host.client.job(job.id).status == "running", "it runs")
    handle = host.client.job(job.id).attempt_list[0].handle
    for _ in range(2):
        host.kill()
        host.start()
    until(lambda: host.client.job(job.id).status == "completed", "it completes", lambda: host.client.job(job.id))
    after = host.client.job(job.id)
    assert [attempt.handle for attempt in after.attempt_list] == [handle]
    expected = "".join(f"line {number}\n" for number in range(1, LINES + 1)).encode()
    followed = "".join(frame.data for frame in host.client.follow_log(job.id)).encode()
    assert hashlib.sha256(followed).hexdigest() == hashlib.sha256(expected).hexdigest()


def test_a_job_that_ends_while_nobody_looks_is_settled_by_the_next_orchestrator(host: Host, engine_image: str) -> None:
    job = host.client.submit("container", {"image": engine_image, "command": ["/bin/sh", "-c", "sleep 1; exit 3"]})
    until(lambda: host.client.job(job.id).status == "running", "it runs")
    host.kill()
    host.start()
    until(lambda: host.client.job(job.id).status == "failed", "it is settled")
    assert host.client.job(job.id).attempt_list[0].exit_code == 3
