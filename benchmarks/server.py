"""An orchestrator in a process of its own over the fake engine, so that what is measured is the orchestrator alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from orchestrator.app import serve
from orchestrator.client import Client, Unreachable
from orchestrator.executors.fake import FakeEngine, FakeExecutor
from orchestrator.settings import Settings
from tests.machine import free_port
from tests.waiting import until


class Server:
    """Listens once it is made."""

    def __init__(self, home: Path, **settings: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.port = home, free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SAEFORGE_")}
        given = {f"SAEFORGE_{name.upper()}": value for name, value in settings.items()}
        own = {
            "SAEFORGE_HOME": str(home),
            "SAEFORGE_PORT": str(self.port),
            "SAEFORGE_LOG_LEVEL": "warning",
        }
        self.process = subprocess.Popen([sys.executable, "-m", "benchmarks.server"], env=inherited | own | given)
        with Client(f"http://127.0.0.1:{self.port}", "none yet", retries=0) as client:
            until(lambda: self._ready(client), "the orchestrator is ready", timeout_s=60)

    def _ready(self, client: Client) -> bool:
        assert self.process.poll() is None, "the orchestrator ended"
        try:
            return client.health().ready
        except Unreachable:
            return False

    @property
    def key(self) -> str:
        return (self.home / "api-key").read_text().strip()

    @property
    def cpu_s(self) -> float:
        """Processor time that it has used so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", self.key)

    def fill(self) -> None:
        """Have one job take all cores for good, so that every later one waits."""
        with self.client() as client:
            holder = client.submit("container", {"image": "busybox", "command": ["forever"]}).id
            until(lambda: client.job(holder).status == "running", "the machine is full")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


if __name__ == "__main__":
    serve(Settings(), executor=FakeExecutor(FakeEngine()))
