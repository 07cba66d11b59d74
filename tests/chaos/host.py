"""A machine whose orchestrator dies: somebody asks until there is an answer, and starts another one meanwhile."""

import asyncio
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from orchestrator.client import Client, Unreachable
from orchestrator.domain import TERMINAL, JobStatus
from orchestrator.errors import NotFound, StateConflict
from orchestrator.executors.base import Executor, Owned
from orchestrator.settings import Settings
from orchestrator.views import JobDetail
from tests.chaos import server
from tests.machine import free_port
from tests.waiting import until

T = TypeVar("T")

TIMEOUT_S = 60.0

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([server.__name__])


class Host:
    """Nothing runs on it before ``start``. Its orchestrator may be killed at any time; its jobs go on."""

    def __init__(self, home: Path, *, environment: dict[str, str] | None = None, **settings: Any) -> None:
        home.mkdir(parents=True, exist_ok=True)
        # Containers run as another user, who has to get through to the run directories.
        for folder in (home, *list(home.parents)[:2]):
            folder.chmod(0o755)
        self.home = home
        self.log = home / "up.log"
        self.deaths = 0
        """Orchestrators seen dead that nobody had asked to end."""
        self.viewers: list[Viewer] = []
        chosen = {"home": home, "port": free_port(), "cpus": 8, "poll_s": 0.02, "grace_s": 5, "preempt_after_s": 0}
        self.settings = Settings(**{**chosen, "executor": "process", **settings})
        self._environment = environment or {}
        self.acknowledged: set[UUID] = set()
        """Jobs whose submit was answered, and that were not purged since."""
        self._process: Any = None
        self._starting = threading.Lock()

    def start(self, fault: str = "") -> None:
        """Start the orchestrator, to die at ``fault``; return once it answers or is dead."""
        self._process = _forks.Process(
            target=server.serve, args=(self.settings, fault, self.log, self._environment), daemon=True
        )
        self._process.start()
        until(lambda: self._answers() or not self._process.is_alive(), "it is up", self._tail, timeout_s=TIMEOUT_S)

    def kill(self) -> None:
        """kill -9 of the orchestrator, if it lives."""
        self._process.kill()
        self._process.join(TIMEOUT_S)

    def end(self) -> None:
        """End the orchestrator in order."""
        self._process.terminate()
        self._process.join(TIMEOUT_S)
        assert self._process.exitcode in (0, -signal.SIGTERM), f"exit code {self._process.exitcode}: {self._tail()}"

    def clear(self) -> None:
        """Leave nothing running, however the test ended."""
        if self._process is not None:
            self.kill()
        asyncio.run(_remove_all(self.executor()))

    def client(self, **options: Any) -> Client:
        url = f"http://127.0.0.1:{self.settings.port}"
        return Client(url, self.settings.key_file.read_text().strip(), **{"retries": 0, **options})

    def ask(self, question: Callable[[Client], T]) -> T | None:
        """The answer, from the second orchestrator where the first died over it.

        None when the second one tells that what was asked has been done, or cannot be done any more.
        """
        asked_before = False
        while True:
            try:
                with self.client() as client:
                    return question(client)
            except (Unreachable, FileNotFoundError):
                self.revive()
                asked_before = True
            except (StateConflict, NotFound):
                if not asked_before:
                    raise
                return None

    def revive(self) -> None:
        """Start another orchestrator if this one is dead."""
        with self._starting:
            if not self._process.is_alive():
                assert self._process.exitcode == -signal.SIGKILL, f"{self._process.exitcode}: {self._tail()}"
                self.deaths += 1
                self.start()

    def submit(self, type: str, params: dict[str, Any], **options: Any) -> UUID:
        """Submit a job until that is acknowledged, and watch its log."""
        key = str(uuid4())
        made = self.ask(lambda client: client.submit(type, params, idempotency_key=key, **options))
        assert made is not None
        self.acknowledged.add(made.id)
        self.viewers.append(Viewer(self, made.id))
        return made.id

    def job(self, job_id: UUID) -> JobDetail:
        seen = self.ask(lambda client: client.job(job_id))
        assert seen is not None
        return seen

    def reaches(self, job_id: UUID, wanted: Collection[JobStatus] = TERMINAL) -> JobDetail:
        """The job once it has one of these statuses."""
        deadline = time.monotonic() + TIMEOUT_S
        while (seen := self.job(job_id)).status not in wanted:
            assert seen.status not in TERMINAL, f"{seen} is not {wanted}"
            assert time.monotonic() < deadline, f"{seen} is not {wanted}; {self._tail()}"
            time.sleep(0.02)
        return seen

    def quiesce(self) -> None:
        """Wait until everything is put away: no container, no lease, nothing to do; and all viewers have seen it."""

        def at_rest() -> bool:
            status = self.ask(lambda client: client.system_status())
            return status is not None and not any(gpu.leased_by for gpu in status.gpus) and not self.owned()

        until(at_rest, "all is put away", self._tail, timeout_s=TIMEOUT_S)
        for viewer in self.viewers:
            viewer.join(TIMEOUT_S)
            assert not viewer.is_alive(), f"{viewer.job_id} has ended, and its viewer was not told"
            is_purged = viewer.job_id not in self.acknowledged and isinstance(viewer.failure, NotFound)
            assert viewer.failure is None or is_purged, f"{viewer.job_id}: {viewer.failure}"

    def executor(self) -> Executor:
        """Another executor on the same home and engine."""
        return server.scripted_executor(self.settings)

    def owned(self) -> list[Owned]:
        """What the executor still has of attempts."""
        return asyncio.run(_owned(self.executor()))

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return client.health().ready
        except (Unreachable, FileNotFoundError):
            return False

    def _tail(self) -> str:
        return self.log.read_text()[-3000:] if self.log.exists() else ""


async def _owned(executor: Executor) -> list[Owned]:
    try:
        return await executor.list_owned()
    finally:
        await executor.close()


async def _remove_all(executor: Executor) -> None:
    for owned in await executor.list_owned():
        await executor.remove(owned.handle)
    await executor.close()


class Viewer(threading.Thread):
    """Somebody who follows a job's log from the first line on, through every death of the orchestrator."""

    def __init__(self, host: Host, job_id: UUID) -> None:
        super().__init__(daemon=True)
        self.job_id = job_id
        self.seen: dict[int, bytes] = {}
        """Attempt -> all that was shown of its log."""
        self.failure: Exception | None = None
        self._client = host.client(retries=100, backoff_s=0.05, reconnect_for_s=TIMEOUT_S)
        self.start()

    def run(self) -> None:
        try:
            for frame in self._client.follow_log(self.job_id):
                assert not frame.skipped, frame
                self.seen[frame.attempt] = self.seen.get(frame.attempt, b"") + frame.content
        except Exception as failure:
            self.failure = failure
        finally:
            self._client.close()
