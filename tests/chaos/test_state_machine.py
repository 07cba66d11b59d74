"""Any order of requests, crashes and mishaps of the engine, found and cut short by Hypothesis.

Store, scheduler, supervisors and control are the real ones, in this process; the engine is in memory. A crash drops all
of them at whatever await they were in, while the engine and its runs go on.
"""

import asyncio
import os
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from orchestrator import app
from orchestrator import scheduler as scheduler_module
from orchestrator import supervisor as supervisor_module
from orchestrator.api.state import State
from orchestrator.control import Control
from orchestrator.domain import TERMINAL, Job, JobStatus, Resources, RetryPolicy
from orchestrator.errors import NotFound, StateConflict
from orchestrator.executors.base import RunState
from orchestrator.executors.fake import FakeEngine, FakeExecutor, FakeRun
from orchestrator.settings import Settings
from orchestrator.store import JobFilter, Store
from tests.chaos import server
from tests.chaos.invariants import check_invariants
from tests.chaos.programs import number, train
from tests.chaos.story import container, training
from tests.unit.orchestrator.jobs import container_job
from worker_image.contract.jobs import job_params

T = TypeVar("T")

PATIENCE_S = 20.0
QUICK = RetryPolicy(backoff_s=0.0)
ACTIONS = ("pause", "resume", "stop", "cancel", "checkpoint")


class Orchestrator:
    """The whole of it but for the socket, on one home and engine."""

    def __init__(self, engine: FakeEngine, chosen: Settings) -> None:
        self._app = app.create_app(chosen, executor=FakeExecutor(engine))
        self._life = self._app.router.lifespan_context(self._app)

    async def start(self) -> "Orchestrator":
        await self._life.__aenter__()
        return self

    async def crash(self) -> None:
        """Drop it at whatever await it is in."""
        ending = asyncio.ensure_future(self._life.__aexit__(None, None, None))
        await asyncio.wait({ending}, timeout=PATIENCE_S)
        assert ending.done(), f"it does not end: {[task.get_stack() for task in asyncio.all_tasks()]}"
        await ending

    @property
    def state(self) -> State:
        state: State = self._app.state.orchestrator
        return state

    @property
    def control(self) -> Control:
        return self.state.control

    @property
    def store(self) -> Store:
        return self.state.store


class Home(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        for module, name, seconds in (
            (scheduler_module, "BUSY_TICK_S", 0.01),
            (scheduler_module, "IDLE_TICK_S", 0.01),
            (scheduler_module, "SWEEP_S", 0.05),
            (scheduler_module, "ENGINE_TRUST_S", 0.0),
            (supervisor_module, "ENGINE_RETRY_S", 0.01),
        ):
            self._patch.setattr(module, name, seconds)
        self._patch.setattr(app, "GpuProbe", server.PretendedGpus)
        self._folder = tempfile.TemporaryDirectory()
        home = Path(self._folder.name)
        self.settings = Settings(home=home, cpus=4, poll_s=0.002, grace_s=0.2, orphan_grace_s=0, preempt_after_s=0)
        self.settings.runs.mkdir()
        self.engine = FakeEngine(number())
        self.engine.programs = {"python": train()}
        self.jobs: list[UUID] = []
        self.cancelled: set[UUID] = set()
        self._runner = asyncio.Runner()
        self.orchestrator: Orchestrator | None = None
        self.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    @property
    def alive(self) -> bool:
        return self.orchestrator is not None

    @precondition(lambda self: not self.alive)
    @rule()
    def start(self) -> None:
        self.orchestrator = self.run(Orchestrator(self.engine, self.settings).start())

    @precondition(lambda self: self.alive)
    @rule()
    def crash(self) -> None:
        assert self.orchestrator is not None
        self.run(self.orchestrator.crash())
        self.orchestrator = None

    @rule(ms=st.integers(0, 40))
    def let_be(self, ms: int) -> None:
        self.run(asyncio.sleep(ms / 1000))

    @precondition(lambda self: self.alive)
    @rule(
        kind=st.sampled_from(["container", "plain", "dies-once"]),
        steps=st.sampled_from([1, 20, 100]),
        gpus=st.integers(0, 2),
        priority=st.sampled_from([0, 5]),
    )
    def submit(self, kind: str, steps: int, gpus: int, priority: int) -> None:
        assert self.orchestrator is not None
        params = (
            {"type": "container", **container(steps)}
            if kind == "container"
            else {"type": "train_sae", **training(steps)}
        )
        job = container_job(
            params=job_params.validate_python(params),
            name=kind,
            priority=priority,
            resources=Resources(gpus=gpus, cpus=1),
            retry=QUICK,
        )
        self.run(self.orchestrator.control.submit(job))
        self.jobs.append(job.id)

    @precondition(lambda self: self.alive and self.jobs)
    @rule(action=st.sampled_from(ACTIONS), place=st.integers(0, 100))
    def ask(self, action: str, place: int) -> None:
        assert self.orchestrator is not None
        with suppress(StateConflict):
            job = self.run(getattr(self.orchestrator.control, action)(self.jobs[place % len(self.jobs)]))
            if action == "cancel":
                self.cancelled.add(job.id)

    @precondition(lambda self: self.alive and self.jobs)
    @rule(place=st.integers(0, 100), fresh=st.booleans())
    def restart(self, place: int, fresh: bool) -> None:
        assert self.orchestrator is not None
        with suppress(StateConflict):
            made = self.run(self.orchestrator.control.restart(self.jobs[place % len(self.jobs)], fresh=fresh))
            self.jobs.append(made.id)

    @precondition(lambda self: self.alive and self.jobs)
    @rule(place=st.integers(0, 100))
    def purge(self, place: int) -> None:
        assert self.orchestrator is not None
        job_id = self.jobs[place % len(self.jobs)]
        with suppress(StateConflict):
            self.run(self.orchestrator.control.purge(job_id))
            self.jobs.remove(job_id)

    @rule(down=st.booleans())
    def lose_engine(self, down: bool) -> None:
        self.engine.down = down

    @rule(refusal=st.sampled_from([None, "no space left on device"]))
    def refuse(self, refusal: str | None) -> None:
        self.engine.refusal = refusal

    @rule(starts=st.booleans())
    def only_create(self, starts: bool) -> None:
        self.engine.starts_by_itself = starts

    @rule(how=st.sampled_from(["killed", "removed", "out of memory"]), place=st.integers(0, 100))
    def lose_container(self, how: str, place: int) -> None:
        running = [run for run in self.engine.runs.values() if run.state is RunState.RUNNING]
        if running:
            self.run(self._lose(running[place % len(running)], how))

    async def _lose(self, run: FakeRun, how: str) -> None:
        if how == "removed":
            del self.engine.runs[run.handle]
        if how == "out of memory":
            run.run_out_of_memory()
        await self.engine.kill(run)

    def teardown(self) -> None:
        """Everything works again and nobody asks for anything: all comes to rest, and all holds."""
        self.engine.down, self.engine.refusal, self.engine.starts_by_itself = False, None, True
        if not self.alive:
            self.start()
        try:
            self.run(self._come_to_rest())
        finally:
            self.crash()
            self.run(self.engine.close())
            self._runner.close()
            self._patch.undo()
        check_invariants(self.settings, FakeExecutor(self.engine), acknowledged=self.jobs, cancelled=self.cancelled)
        self._folder.cleanup()

    async def _come_to_rest(self) -> None:
        assert self.orchestrator is not None
        control, store = self.orchestrator.control, self.orchestrator.store
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (jobs := await self._unfinished()) or await store.live_attempts() or self.engine.runs:
                    for job in jobs:
                        if job.status is JobStatus.PAUSED or job.intent == "pause":
                            with suppress(StateConflict, NotFound):
                                await control.resume(job.id)
                    await asyncio.sleep(0.005)
        except TimeoutError:
            left = [(job.id, job.status, job.intent, job.wait) for job in await self._unfinished()]
            raise AssertionError(
                f"not at rest: {left}, {await store.live_attempts()}, {list(self.engine.runs.values())}"
            ) from None

    async def _unfinished(self) -> list[Job]:
        assert self.orchestrator is not None
        jobs, _ = await self.orchestrator.store.jobs(JobFilter(), limit=-1)
        return [job for job in jobs if job.status not in TERMINAL]


TestHome = Home.TestCase
TestHome.settings = settings(
    max_examples=int(os.environ.get("CHAOS_EXAMPLES", "25")),
    stateful_step_count=30,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
