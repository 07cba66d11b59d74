"""kill -9 of a real orchestrator process while a real container runs."""

import hashlib
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import docker
import pytest

from orchestrator.domain import JobStatus
from orchestrator.executors.container_request import JOB_LABEL
from tests.machine import Machine
from tests.waiting import until

pytestmark = pytest.mark.docker

LINES = 3000
PROGRAM = (
    f'i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo "line $i"; [ $((i % 300)) -eq 0 ] && sleep 0.3; done; exit 0'
)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    one = Machine(tmp_path / "home", "docker")
    one.start()
    yield one
    one.leave()


def killed_and_started(machine: Machine) -> None:
    machine.end(signal.SIGKILL)
    machine.start()


def test_the_same_container_finishes_with_its_log_complete(machine: Machine, engine_image: str) -> None:
    with machine.client() as client:
        job = client.submit("container", {"image": engine_image, "command": ["/bin/sh", "-c", PROGRAM]})
        client.wait(job.id, until={JobStatus.RUNNING}, timeout_s=60)
        handle = client.job(job.id).attempt_list[0].handle
        for _ in range(2):
            killed_and_started(machine)
        ended = client.wait(job.id, timeout_s=60)
        followed = "".join(frame.data for frame in client.follow_log(job.id)).encode()
    assert ended.status == JobStatus.COMPLETED
    assert [attempt.handle for attempt in ended.attempt_list] == [handle]
    expected = "".join(f"line {number}\n" for number in range(1, LINES + 1)).encode()
    assert hashlib.sha256(followed).hexdigest() == hashlib.sha256(expected).hexdigest()


STRANGE = r"""printf '10%%\r20%%\r\n\377\000\342\202'; head -c 3000000 /dev/zero | tr '\0' x; echo; echo oops >&2"""
"""Carriage returns, a byte that is no text, a zero, half a character, a line of three megabytes, standard error."""


def test_any_image_with_a_shell_has_its_log_kept_byte_for_byte(machine: Machine, engine_image: str) -> None:
    with machine.client() as client:
        job = client.submit("container", {"image": engine_image, "command": ["/bin/sh", "-c", STRANGE]})
        followed = b"".join(frame.content for frame in client.follow_log(job.id))
    assert followed == b"10%\r20%\r\n\xff\x00\xe2\x82" + b"x" * 3_000_000 + b"\noops\n"


def test_a_job_that_ends_while_nobody_looks_is_settled_by_the_next_orchestrator(
    machine: Machine, engine_image: str
) -> None:
    with machine.client() as client:
        job = client.submit("container", {"image": engine_image, "command": ["/bin/sh", "-c", "sleep 1; exit 3"]})
        client.wait(job.id, until={JobStatus.RUNNING}, timeout_s=60)
        machine.end(signal.SIGKILL)
        until(lambda: not running(job.id), "the container has ended")
        machine.start()
        ended = client.wait(job.id, timeout_s=60)
    assert ended.status == JobStatus.FAILED
    assert ended.attempt_list[0].exit_code == 3


def running(job_id: UUID) -> bool:
    with closing(docker.from_env()) as client:
        return bool(client.containers.list(filters={"label": f"{JOB_LABEL}={job_id}"}))
