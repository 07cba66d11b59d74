"""One machine with saeforge on it: a home, a port, and an orchestrator in a process of its own that may be killed."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from orchestrator.client import Client, Unreachable
from orchestrator.domain import ACTIVE, JobStatus
from tests.waiting import until

TIMEOUT_S = 60


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Machine:
    """Nothing runs on it before ``start``."""

    def __init__(self, home: Path, executor: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        # Containers run as another user, who has to get through to the run directories.
        for folder in (home, *list(home.parents)[:2]):
            folder.chmod(0o755)
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home / "up.log"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SAEFORGE_")},
            "SAEFORGE_HOME": str(home),
            "SAEFORGE_PORT": str(self.port),
            "SAEFORGE_EXECUTOR": executor,
        }
        self.server: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        """Start the orchestrator, with these words of ``saeforge``; return once it can start jobs."""
        with self.log.open("ab") as log:
            self.server = self.spawn(*(words or ("up", "--api-only")), stdout=log, stderr=subprocess.STDOUT)
        with Client(self.url, "none yet", retries=0) as client:
            until(lambda: self._answers(client), f"{self.url} answers", timeout_s=TIMEOUT_S)

    def _answers(self, client: Client) -> bool:
        assert self.server is not None
        assert self.server.poll() is None, self.log.read_text()
        try:
            return client.health().ready
        except Unreachable:
            return False

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send the orchestrator a signal; return its exit code once it is gone."""
        assert self.server is not None
        self.server.send_signal(how)
        return self.server.wait(TIMEOUT_S)

    def leave(self) -> None:
        """End every job, which would outlive the orchestrator, and then that."""
        with self.client() as client:
            for status in (*ACTIVE, JobStatus.QUEUED):
                for job in client.jobs(status=status).items:
                    client.cancel(job.id)
                    client.wait(job.id, timeout_s=TIMEOUT_S)
        self.end()

    def spawn(self, *words: str, **options: object) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "orchestrator.cli", *words]
        return subprocess.Popen(command, env=self.environment, **options)  # type: ignore[call-overload, no-any-return]

    def run(self, *words: str, input: bytes | None = None, **environment: str) -> "subprocess.CompletedProcess[bytes]":
        command = [sys.executable, "-m", "orchestrator.cli", *words]
        env = self.environment | environment
        return subprocess.run(command, env=env, input=input, capture_output=True, timeout=TIMEOUT_S, check=False)

    def client(self) -> Client:
        return Client(self.url, (self.home / "api-key").read_text().strip())
