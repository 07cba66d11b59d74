"""Test benches: one executor each, with what the contract suite needs around it."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

import docker
import pytest

from orchestrator.executors.base import Executor, LaunchSpec, Observation, RunState, Usage
from orchestrator.executors.docker import DockerExecutor
from orchestrator.executors.fake import FakeEngine, FakeExecutor
from orchestrator.executors.process import ProcessExecutor
from tests.contract.programs import PROGRAMS, Program
from worker_image.contract.jobs import ContainerParams
from worker_image.contract.rundir import RunDir, RunSpec

DEADLINE_S = 30.0


class Bench(ABC):
    """An executor on a home of its own, and a way to start it anew as after a restart."""

    image = "test-image"

    def __init__(self, home: Path) -> None:
        self.home = home
        self.executor = self.restarted()

    @abstractmethod
    def restarted(self) -> Executor:
        """A new executor on the same home and engine."""

    def argv(self, program: Program) -> tuple[str, ...]:
        return ("/bin/sh", "-c", program.shell)

    def spec(self, program: Program, job_id: UUID | None = None) -> LaunchSpec:
        """A laid-out run directory and the spec of its attempt."""
        job_id = job_id or uuid4()
        run_dir = RunDir.of(self.home, job_id, 1)
        argv = self.argv(program)
        run_dir.create(
            RunSpec(job_id=job_id, attempt=1, name="test", params=ContainerParams(image=self.image, command=list(argv)))
        )
        return LaunchSpec(
            job_id=job_id,
            attempt=1,
            name=f"saeforge-{job_id}-1",
            image=self.image,
            argv=argv,
            run_dir=run_dir.path,
        )

    async def launch(self, program: Program) -> tuple[LaunchSpec, str]:
        spec = self.spec(program)
        handle = await self.executor.launch(spec)
        return spec, handle

    @abstractmethod
    async def pids(self, handle: str) -> set[int]:
        """Processes of a running attempt, found by another way than the executor's own."""

    async def until(self, handle: str, state: RunState) -> Observation:
        """The first observation of this state."""
        deadline = time.monotonic() + DEADLINE_S
        while (seen := await self.executor.inspect(handle)).state is not state:
            assert time.monotonic() < deadline, f"still {seen} after {DEADLINE_S} s, expected {state}"
            await asyncio.sleep(0.02)
        return seen

    async def until_used(self, handle: str, *, cpu_s: float) -> Usage:
        """The first look at which the running attempt has used more than ``cpu_s``."""
        deadline = time.monotonic() + DEADLINE_S
        while (used := await self.executor.usage(handle)) is None or used.cpu_s <= cpu_s:
            assert time.monotonic() < deadline, f"still {used} after {DEADLINE_S} s"
            await asyncio.sleep(0.05)
        return used

    async def until_log(self, spec: LaunchSpec, text: bytes) -> None:
        await eventually(lambda: text in RunDir(spec.run_dir).log.read_bytes(), f"{text!r} in the log")

    async def close(self) -> None:
        for owned in await self.executor.list_owned():
            await self.executor.remove(owned.handle)
        await self.executor.close()


class EngineBench(Bench):
    """An executor on an engine: something that can be lost, and that creates before it starts."""

    @abstractmethod
    def break_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the engine not answer."""

    @abstractmethod
    async def created_only(self, program: Program) -> tuple[LaunchSpec, str]:
        """An attempt as a crash between create and start leaves it."""


class FakeBench(EngineBench):
    def __init__(self, home: Path) -> None:
        self.engine = FakeEngine()
        self.engine.programs = {program.name: program.fake for program in PROGRAMS}
        super().__init__(home)

    def restarted(self) -> Executor:
        return FakeExecutor(self.engine)

    def argv(self, program: Program) -> tuple[str, ...]:
        return (program.name,)

    async def pids(self, handle: str) -> set[int]:
        run = self.engine.run(handle)
        # Numbers that no process of a machine has, and each run's own.
        run.pids = run.pids or {(1 << 23) + len(self.engine.runs) + list(self.engine.runs).index(handle)}
        return run.pids

    def break_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self.engine, "down", True)

    async def created_only(self, program: Program) -> tuple[LaunchSpec, str]:
        self.engine.starts_by_itself = False
        launched = await self.launch(program)
        self.engine.starts_by_itself = True
        return launched

    async def close(self) -> None:
        self.engine.down = False
        await super().close()
        await self.engine.close()


class ProcessBench(Bench):
    def restarted(self) -> Executor:
        return ProcessExecutor(self.home)

    async def pids(self, handle: str) -> set[int]:
        return _mentioning(self.home / "runs" / handle)


class DockerBench(EngineBench):
    def __init__(self, home: Path, image: str) -> None:
        self.image = image
        self.broken: pytest.MonkeyPatch | None = None
        super().__init__(home)

    def restarted(self) -> Executor:
        return DockerExecutor(self.home)

    async def pids(self, handle: str) -> set[int]:
        client = docker.from_env()
        try:
            return {int(row[0]) for row in client.api.top(handle, "-eo pid")["Processes"]}
        finally:
            client.close()

    def break_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{self.home}/no-engine.sock")
        self.executor = self.restarted()
        self.broken = monkeypatch

    async def created_only(self, program: Program) -> tuple[LaunchSpec, str]:
        spec = self.spec(program)

        executor = DockerExecutor(self.home)
        await executor._create(spec)
        await executor.close()
        (made,) = await self.executor.list_owned()
        return spec, made.handle

    async def close(self) -> None:
        if self.broken:
            self.broken.undo()
            self.executor = self.restarted()
        await super().close()


def _mentioning(run_dir: Path) -> set[int]:
    """Processes that were given this run directory."""
    found = set[int]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if f"SAEFORGE_RUN_DIR={run_dir}\0".encode() in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
    return found


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        await asyncio.sleep(0.02)
