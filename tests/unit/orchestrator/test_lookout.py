import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from orchestrator.errors import EngineUnavailable
from orchestrator.executors.base import LaunchSpec, RunState
from orchestrator.executors.fake import FakeEngine, FakeExecutor, FakeRun
from orchestrator.lookout import Lookout


class CountedExecutor(FakeExecutor):
    """Counts how often it is asked, and tells of changes when it is made to."""

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(engine)
        self.asked = 0
        self.changed: asyncio.Event | None = None

    async def states(self, handles: Collection[str]) -> dict[str, RunState]:
        self.asked += 1
        return await super().states(handles)

    async def changes(self) -> AsyncGenerator[None]:
        while self.changed is not None:
            yield
            await self.changed.wait()
            self.changed.clear()


@asynccontextmanager
async def looking(executor: FakeExecutor, poll_s: float) -> AsyncIterator[Lookout]:
    lookout = Lookout(executor, poll_s)
    yield lookout
    await lookout.close()


def running(engine: FakeEngine, home: Path) -> FakeRun:
    spec = LaunchSpec(uuid4(), 1, f"saeforge-{uuid4()}-1", "image", ("run",), home)
    run = FakeRun(spec, uuid4().hex, RunState.RUNNING)
    engine.runs[run.handle] = run
    return run


async def test_one_question_serves_all_who_watch(tmp_path: Path) -> None:
    engine = FakeEngine()
    executor = CountedExecutor(engine)
    async with looking(executor, poll_s=60) as lookout:
        with ExitStack() as watching:
            runs = [running(engine, tmp_path) for _ in range(100)]
            watches = [watching.enter_context(lookout.watch(run.handle, lambda: None)) for run in runs]
            states = await asyncio.gather(*(watch.state() for watch in watches))
    assert set(states) == {RunState.RUNNING}
    assert executor.asked == 1


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda engine, run: run.exit(3), RunState.EXITED),
        (lambda engine, run: engine.runs.clear(), RunState.MISSING),
    ],
)
async def test_a_change_is_told_to_whom_it_concerns(tmp_path: Path, change: object, state: RunState) -> None:
    engine = FakeEngine()
    ends = running(engine, tmp_path)
    told = asyncio.Event()
    async with looking(FakeExecutor(engine), poll_s=0.01) as lookout:
        with lookout.watch(ends.handle, told.set) as watch:
            assert await watch.state() is RunState.RUNNING
            assert not told.is_set()
            assert callable(change)
            change(engine, ends)
            await asyncio.wait_for(told.wait(), 20)
            assert await watch.state() is state


async def test_others_are_not_told(tmp_path: Path) -> None:
    engine = FakeEngine()
    ends, stays = running(engine, tmp_path), running(engine, tmp_path)
    told, wrongly = asyncio.Event(), asyncio.Event()
    async with looking(FakeExecutor(engine), poll_s=0.01) as lookout:
        with lookout.watch(ends.handle, told.set) as watch, lookout.watch(stays.handle, wrongly.set) as other:
            await asyncio.gather(watch.state(), other.state())
            ends.exit(0)
            await asyncio.wait_for(told.wait(), 20)
    assert not wrongly.is_set()


async def test_a_hint_has_it_looked_at_long_before_its_turn(tmp_path: Path) -> None:
    engine = FakeEngine()
    executor = CountedExecutor(engine)
    executor.changed = asyncio.Event()
    ends = running(engine, tmp_path)
    told = asyncio.Event()
    async with looking(executor, poll_s=3600) as lookout:
        with lookout.watch(ends.handle, told.set) as watch:
            await watch.state()
            ends.exit(0)
            executor.changed.set()
            await asyncio.wait_for(told.wait(), 20)
            assert await watch.state() is RunState.EXITED


async def test_an_engine_that_does_not_answer_is_told_of_and_so_is_its_return(tmp_path: Path) -> None:
    engine = FakeEngine()
    run = running(engine, tmp_path)
    told = asyncio.Event()
    async with looking(FakeExecutor(engine), poll_s=0.01) as lookout:
        with lookout.watch(run.handle, told.set) as watch:
            await watch.state()
            engine.down = True
            await asyncio.wait_for(told.wait(), 20)
            with pytest.raises(EngineUnavailable):
                await watch.state()
            told.clear()
            engine.down = False
            await asyncio.wait_for(told.wait(), 20)
            assert await watch.state() is RunState.RUNNING


async def test_who_begins_to_watch_later_is_answered_at_once(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with looking(FakeExecutor(engine), poll_s=3600) as lookout:
        for _ in range(2):
            with lookout.watch(running(engine, tmp_path).handle, lambda: None) as watch:
                assert await asyncio.wait_for(watch.state(), 20) is RunState.RUNNING


async def test_an_answer_that_makes_no_sense_is_no_end_of_looking(tmp_path: Path) -> None:
    engine = FakeEngine()

    class Confused(CountedExecutor):
        async def states(self, handles: Collection[str]) -> dict[str, RunState]:
            if self.asked == 0:
                self.asked += 1
                raise KeyError("State")
            return await super().states(handles)

        async def changes(self) -> AsyncGenerator[None]:
            raise ValueError("not an event")
            yield

    executor, changed = Confused(engine), asyncio.Event()
    async with looking(executor, poll_s=0.01) as lookout:
        with lookout.watch(running(engine, tmp_path).handle, changed.set) as watch:
            with pytest.raises(EngineUnavailable, match="State"):
                await watch.state()
            await changed.wait()
            assert await watch.state() is RunState.RUNNING
