"""An executor in memory, for tests: no engine, no process, the same contract.

A ``FakeEngine`` plays the container engine: it outlives executors, so a second ``FakeExecutor`` on it is an
orchestrator that was restarted. Programs are coroutines; without one, a run goes on until the test ends it.

    engine = FakeEngine()
    executor = FakeExecutor(engine)
    handle = await executor.launch(spec)
    engine.run(handle).exit(0)
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from uuid import uuid4

from orchestrator.errors import EngineUnavailable, ImageMissing, LaunchFailed
from orchestrator.executors.base import LaunchSpec, Observation, Owned, RunState, Told, Usage, untold
from worker_image.contract.launch import CLAIMED_EXIT_CODE
from worker_image.contract.rundir import RunDir

POLL_S = 0.005


@dataclass(eq=False)
class FakeRun:
    """One attempt on the fake engine, as a test sees it."""

    spec: LaunchSpec
    handle: str
    state: RunState = RunState.CREATED
    exit_code: int | None = None
    oom_killed: bool = False
    starts: int = 0
    """How often its program was begun: never more than once."""
    terminated: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by SIGTERM."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    pids: set[int] = field(default_factory=set)
    """Processes of the machine that it plays to have."""
    usage: Usage | None = None
    """What it plays to use; a core from its begin and a MiB when empty."""
    began: float = field(default_factory=time.time)
    task: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        """Append to the attempt's log."""
        with RunDir(self.spec.run_dir).log.open("ab") as log:
            log.write(data)

    def exit(self, code: int = 0) -> None:
        """End it with this exit code. Nothing if it has ended."""
        if not self.ended.is_set():
            self.state, self.exit_code = RunState.EXITED, code
            self.ended.set()

    def run_out_of_memory(self) -> None:
        """End it as the kernel does when memory is short."""
        self.oom_killed = True
        self.exit(137)


FakeProgram = Callable[[FakeRun], Awaitable[int]]
"""Plays a job: returns its exit code. Cancelled by SIGKILL."""


async def run_until_terminated(run: FakeRun) -> int:
    """The default program: goes on until SIGTERM or the test ends it."""
    await run.terminated.wait()
    return 143


class FakeEngine:
    """What a container engine knows, in memory."""

    def __init__(self, program: FakeProgram = run_until_terminated) -> None:
        self.program = program
        self.programs: dict[str, FakeProgram] = {}
        """Program by the first word of its argv; ``program`` for all others."""
        self.down = False
        """Whether it does not answer."""
        self.missing_images: set[str] = set()
        """Images that are neither here nor to be had."""
        self.prepared: set[str] = set()
        """Images that were asked for."""
        self.stalled_images: set[str] = set()
        """Images whose pull does not come to an end for as long as they are in here."""
        self.refusal: str | None = None
        """Why it refuses to start anything, when it does."""
        self.starts_by_itself = True
        """Whether launch also starts; otherwise runs stay created, as after a crash between create and start."""
        self.runs: dict[str, FakeRun] = {}
        """Handle -> run, of those not removed."""

    def run(self, handle: str) -> FakeRun:
        return self.runs[handle]

    def named(self, name: str) -> FakeRun | None:
        return next((run for run in self.runs.values() if run.spec.name == name), None)

    def start(self, run: FakeRun) -> None:
        run.state = RunState.RUNNING
        run.task = asyncio.create_task(self._play(run))

    async def _play(self, run: FakeRun) -> None:
        try:
            os.close(os.open(RunDir(run.spec.run_dir).claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            run.exit(CLAIMED_EXIT_CODE)
            return
        run.starts += 1
        playing = asyncio.ensure_future(self.programs.get(run.spec.argv[0], self.program)(run))
        ending = asyncio.ensure_future(run.ended.wait())
        try:
            await asyncio.wait({playing, ending}, return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                run.exit(playing.result())
        finally:
            for task in (playing, ending):
                task.cancel()

    async def kill(self, run: FakeRun) -> None:
        run.exit(137)
        if run.task is not None:
            await run.task

    async def close(self) -> None:
        """End every run, so that no task is left behind."""
        for run in self.runs.values():
            await self.kill(run)


class FakeExecutor:
    """Runs attempts on a ``FakeEngine``."""

    name = "fake"

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    async def check(self) -> str:
        self._answer()
        return "fake engine"

    async def prepare(self, image: str, told: Told = untold) -> None:
        self._answer()
        if image in self.engine.stalled_images:
            told(f"pulling image {image}")
        while image in self.engine.stalled_images:  # noqa: ASYNC110 (a test may change it from another thread)
            await asyncio.sleep(POLL_S)
        if image in self.engine.missing_images:
            raise ImageMissing(f"image {image} is not available", field="image", suggestion="check the name")
        self.engine.prepared.add(image)

    async def launch(self, spec: LaunchSpec) -> str:
        await self.prepare(spec.image)
        run = self.engine.named(spec.name)
        if run is None:
            run = FakeRun(spec, handle=uuid4().hex)
            self.engine.runs[run.handle] = run
        if run.state is RunState.CREATED and self.engine.starts_by_itself:
            if self.engine.refusal is not None:
                raise LaunchFailed(self.engine.refusal)
            self.engine.start(run)
        return run.handle

    async def inspect(self, handle: str) -> Observation:
        self._answer()
        run = self.engine.runs.get(handle)
        if run is None:
            return Observation(RunState.MISSING)
        return Observation(run.state, run.exit_code, run.oom_killed)

    async def states(self, handles: Collection[str]) -> dict[str, RunState]:
        self._answer()
        runs = self.engine.runs
        return {handle: runs[handle].state if handle in runs else RunState.MISSING for handle in handles}

    async def changes(self) -> AsyncGenerator[None]:
        """Nothing is told."""
        return
        yield  # makes it a generator

    async def stop(self, handle: str, grace_s: float) -> None:
        self._answer()
        run = self.engine.runs.get(handle)
        if run is None:
            return
        if run.state is RunState.CREATED:
            del self.engine.runs[handle]
            return
        run.terminated.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await run.ended.wait()
        await self.engine.kill(run)

    async def remove(self, handle: str) -> None:
        self._answer()
        run = self.engine.runs.pop(handle, None)
        if run is not None:
            await self.engine.kill(run)

    async def list_owned(self) -> list[Owned]:
        self._answer()
        return [Owned(run.spec.job_id, run.spec.attempt, handle) for handle, run in self.engine.runs.items()]

    async def whose(self, pids: Collection[int], handles: Collection[str]) -> dict[int, str]:
        self._answer()
        runs = [run for handle, run in self.engine.runs.items() if handle in handles]
        return {pid: run.handle for run in runs for pid in run.pids & set(pids)}

    async def usage(self, handle: str) -> Usage | None:
        self._answer()
        run = self.engine.runs.get(handle)
        if run is None or run.state is not RunState.RUNNING:
            return None
        now = time.time()
        return run.usage or Usage(at=now, cpu_s=now - run.began, memory_bytes=1 << 20)

    async def facts(self) -> dict[str, str]:
        self._answer()
        return {"kept in": "memory"}

    async def close(self) -> None:
        """Let go. Runs go on."""

    def _answer(self) -> None:
        if self.engine.down:
            raise EngineUnavailable("the fake engine does not answer")
