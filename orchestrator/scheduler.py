"""The reconcile loop: brings what runs in line with what is wanted."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from uuid import UUID, uuid4

from orchestrator import faults
from orchestrator.access import MACHINE, Principal
from orchestrator.board import Board
from orchestrator.broker import Broker
from orchestrator.disk import Disk
from orchestrator.domain import Attempt, Job, JobStatus, Queued, Wait
from orchestrator.errors import DiskFull, EngineUnavailable, ImageMissing, NotFound, StateConflict
from orchestrator.executors.base import Executor
from orchestrator.gpus import GpuReport
from orchestrator.growth import Growth
from orchestrator.instruments import Instruments
from orchestrator.lookout import Lookout
from orchestrator.occupancy import Occupancy
from orchestrator.planner import Start, Waits, plan
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.supervisor import Supervisor, image_of
from worker_image.contract.commands import Pause
from worker_image.contract.jobs import JOB_TYPES

logger = logging.getLogger(__name__)

BUSY_TICK_S = 1.0
IDLE_TICK_S = 10.0
REST = 3.0
"""Times as long as a tick took until the next one: in a burst of submits, planning leaves the time to take them."""
SWEEP_S = 60.0
ALIVE_S = 120.0
"""A loop that did not go round for longer stands still; an engine that hangs may hold it up for a minute."""
PULL_AHEAD = 4
"""Queued jobs, from the first, whose images are made available while they wait."""
RETRY_MOST_S = 10.0
"""Longest pause before a supervisor that failed is replaced."""
ENGINE_TRUST_S = 2.0
"""How long an engine that answered counts as there, so that a burst of submits does not ask it every time."""


class Scheduler:
    """Starts queued jobs when there is room, and keeps one supervisor per live attempt."""

    def __init__(
        self,
        *,
        store: Store,
        executor: Executor,
        others: Mapping[str, Executor],
        broker: Broker,
        settings: Settings,
        probe: Callable[[], GpuReport],
        growth: Growth,
        instruments: Instruments | None = None,
    ) -> None:
        """``executor`` takes new attempts; ``others`` look after attempts begun under an earlier setting."""
        self.executor = executor
        self.waits = Waits()
        """Why each queued job waits, as of the last tick."""
        self.engine: str | None = None
        """What the engine calls itself; None when it does not answer."""
        self.engine_error: str | None = None
        self.engine_latency_s: float | None = None
        """How long the engine took to answer the last time."""
        self.engine_facts: dict[str, str] = {}
        """What the engine told of itself when it began to answer."""
        self.disk_error: str | None = None
        """Why nothing new is started for want of disk space; what runs goes on."""
        self._disk = Disk(settings.home, settings.min_free_mb)
        self._executors = {**others, executor.name: executor}
        self.occupancy = Occupancy(self._executors)
        """Whose processes are on the GPUs."""
        self._store, self._broker, self._settings, self._probe = store, broker, settings, probe
        self._board = Board(store=store, settings=settings, probe=probe, occupancy=self.occupancy)
        self._instruments = instruments or Instruments()
        self._growth = growth
        self._lookouts = {name: Lookout(each, settings.poll_s) for name, each in self._executors.items()}
        self._next_up: Mapping[int, Queued] = {}
        """For whom what they need is kept."""
        self._wake = asyncio.Event()
        self._supervisors: dict[tuple[UUID, int], Supervisor] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: Counter[tuple[UUID, int]] = Counter()
        self._next_sweep = 0.0
        self._ticked_at = float("-inf")
        self._reaping: set[str] = set()
        """Handles of those that are being removed."""
        self._orphans: dict[str, float] = {}
        """Handle of a container that belongs to no known job -> when it was first seen."""
        self._ahead: set[UUID] = set()
        """Jobs whose images were looked at for that."""
        self._pulled: set[str] = set()
        """Images made available ahead, or tried to."""
        self._engine_seen = -ENGINE_TRUST_S
        self._asking: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether its loop goes round."""
        return time.monotonic() - self._ticked_at < ALIVE_S

    def wake(self) -> None:
        """Something changed: plan again now."""
        self._wake.set()

    def nudge(self, job_id: UUID) -> None:
        """The user wants something else of this job: act on it now."""
        for (supervised, _), supervisor in self._supervisors.items():
            if supervised == job_id:
                supervisor.nudge()
        self.wake()

    async def run(self) -> None:
        """Re-attach to what runs, then reconcile for ever. Cancelling it leaves the attempts running."""
        try:
            for job, attempt in await self._store.live():
                self._look_after(job, attempt)
            while True:
                began = time.monotonic()
                with self._instruments.tick_seconds.time():
                    await self._tick_whatever_happens()
                await asyncio.sleep(min(REST * (time.monotonic() - began), BUSY_TICK_S))
                seconds = BUSY_TICK_S if self.waits else IDLE_TICK_S
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for lookout in self._lookouts.values():
                await lookout.close()

    async def _tick_whatever_happens(self) -> None:
        """A tick that fails is tried again: nothing was changed by halves, and the attempts go on."""
        try:
            await self.tick()
        except DiskFull as error:
            self._note_disk(error.message)
        except Exception:
            # It does not count as a round: a loop that fails for long is told as one that stands still.
            logger.exception("jobs cannot be planned; trying again")
            await asyncio.sleep(BUSY_TICK_S)
            self.wake()
            return
        self._ticked_at = time.monotonic()

    async def tick(self) -> None:
        """Plan once and start what may start."""
        await self._look_at_engine()
        self._note_disk(await asyncio.to_thread(self._disk.look))
        if time.monotonic() >= self._next_sweep and self.engine is not None:
            self._next_sweep = time.monotonic() + SWEEP_S
            await self._sweep()
        changed = await self._board.refresh()
        if not self._board.queue:
            self.waits = Waits()
            return
        lines, held, terms = await self._board.look(engine_error=self.engine_error, disk_error=self.disk_error)
        # Off the event loop: with a hundred thousand jobs it takes long enough for a viewer to notice.
        decided = await asyncio.to_thread(plan, lines, held, terms, next_up=self._next_up)
        for start in decided.starts:
            await self._begin(start)
        for preemption in decided.preempt:
            await self.preempt(preemption.victim, preemption.beneficiary)
        self.waits, self._next_up = decided.waits, decided.next_up
        changed |= {start.job.id for start in decided.starts}
        if changed:
            self._broker.ring(*changed)
        if self.disk_error is None:
            await self._pull_ahead(decided.waits.first(PULL_AHEAD))

    async def _begin(self, start: Start) -> None:
        # A job cancelled since the queue was read has simply left it.
        with suppress(StateConflict, NotFound):
            job = await self._store.job(start.job.id)
            if job.resources != start.job.shape.resources:
                # Changed since: what was found for it is not what it asks for now.
                return
            attempt = await self._store.begin_attempt(
                job,
                executor=self.executor.name,
                gpus=start.gpus,
                cpus=start.cpus,
                gpu_memory_mb=start.gpu_memory_mb,
                weight=start.weight,
            )
            await self._supervise(attempt)

    async def waits_of(self, jobs: Iterable[Job]) -> dict[UUID, Wait]:
        """Why each of these jobs that is queued waits, as of the last plan."""
        waits = self.waits
        queued = [job for job in jobs if job.status is JobStatus.QUEUED]
        found = dict.fromkeys((job.id for job in queued), _unplanned(waits))
        # What just came is in no plan; the places of all the others need not be worked out for that.
        known = self._board.queue
        planned = [job.id for job in queued if job.id in known and job.created_at.timestamp() <= waits.made_at]
        if planned:
            found |= await asyncio.to_thread(lambda: {job_id: waits[job_id] for job_id in planned if job_id in waits})
        return found

    async def waiting_by_reason(self, who: Principal = MACHINE) -> Mapping[str, int]:
        """Reason -> queued jobs within somebody's reach that wait for it, as of the last plan."""
        waits = self.waits
        if who.scoped:
            return await asyncio.to_thread(waits.count, lambda job: who.covers(job.owner, job.shape.type))
        return await asyncio.to_thread(lambda: waits.by_reason)

    def _note_disk(self, error: str | None) -> None:
        """Remember what the disk allows, and say so when that changes."""
        if error is not None and self.disk_error is None:
            logger.error("nothing new is started, the disk is full: %s", error)
        elif error is None and self.disk_error is not None:
            logger.info("there is room on the disk again: new jobs start")
        if (error is None) != (self.disk_error is None):
            self._broker.ring()
        self.disk_error = error

    async def preempt(self, victim: UUID, beneficiary: UUID) -> None:
        """Have a running job write a checkpoint and go back to the queue, to make room for another one."""
        # Whatever it did or its user asked for in the meantime makes room as well, or is looked at by the next plan.
        with suppress(StateConflict, NotFound):
            job = await self._store.job(victim)
            if job.status is not JobStatus.RUNNING or "pause" not in JOB_TYPES[job.type].commands:
                return
            await self._store.request(
                job,
                Pause(id=uuid4(), ts=time.time()),
                to=JobStatus.PAUSING,
                reason=f"makes room for job {beneficiary}, which goes before it",
                intent="requeue",
                phase="making room",
            )
            faults.reach("preempted")
            self.nudge(victim)

    async def _pull_ahead(self, waiting: Sequence[Queued]) -> None:
        """Make the images of the next jobs available while they wait. What fails here is told when its job starts."""
        new = [job.id for job in waiting if job.id not in self._ahead]
        self._ahead = {job.id for job in waiting}
        images = set[str]()
        for job_id in new:
            # A job may have been purged since the queue was read.
            with suppress(NotFound):
                images.add(image_of(await self._store.job(job_id), self._settings))
        images -= self._pulled
        if images and self.engine is not None:
            self._pulled |= images
            task = asyncio.create_task(self._pull(images), name="pull-ahead")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pull(self, images: set[str]) -> None:
        for image in sorted(images):
            try:
                await self.executor.prepare(image)
            except (EngineUnavailable, ImageMissing) as error:
                logger.warning("%s cannot be made available ahead: %s", image, error)

    async def _supervise(self, attempt: Attempt) -> None:
        self._look_after(await self._store.job(attempt.job_id), attempt)

    def _look_after(self, job: Job, attempt: Attempt) -> None:
        executor = self._executors.get(attempt.executor)
        if executor is None:
            logger.error("%s runs on %r, which is not set up; leaving it alone", attempt.name, attempt.executor)
            return
        supervisor = self._supervisor(job, attempt, executor)
        self._supervisors[attempt.job_id, attempt.number] = supervisor
        task = asyncio.create_task(supervisor.run(), name=attempt.name)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._supervised(attempt, done))

    def _supervisor(self, job: Job, attempt: Attempt, executor: Executor) -> Supervisor:
        return Supervisor(
            job,
            attempt,
            store=self._store,
            executor=executor,
            broker=self._broker,
            settings=self._settings,
            growth=self._growth,
            lookout=self._lookouts[executor.name],
            lost_gpus=self._lost_gpus,
        )

    def gpus_lost(self, uuids: frozenset[str]) -> None:
        """These GPUs no longer answer: end what holds them, before it waits for them for ever."""
        for supervisor in list(self._supervisors.values()):
            if not uuids.isdisjoint(supervisor.attempt.gpus):
                supervisor.gpu_lost()

    async def _lost_gpus(self, uuids: Collection[str]) -> tuple[str, ...]:
        report = await asyncio.to_thread(self._probe)
        lost = (gpu for gpu in report.gpus if gpu.lost and gpu.uuid in uuids)
        return tuple(f"GPU {gpu.index} ({gpu.name}): {', '.join(gpu.problems)}" for gpu in lost)

    def _supervised(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """An attempt is settled, or its supervisor failed: then another one takes over from the beginning."""
        self._tasks.discard(task)
        self._supervisors.pop((attempt.job_id, attempt.number), None)
        self._try_again_if_failed(attempt, task)
        self.wake()

    def _try_again_if_failed(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        logger.error("looking after %s failed; trying again", attempt.name, exc_info=error)
        again = asyncio.create_task(self._supervise_again(attempt), name=f"{attempt.name}-again")
        self._tasks.add(again)
        again.add_done_callback(lambda done: self._try_again_if_failed(attempt, done))

    async def _supervise_again(self, attempt: Attempt) -> None:
        """A defect of ours never ends a job; only its user may, and then nothing of ours may stand in the way."""
        key = attempt.job_id, attempt.number
        self._failures[key] += 1
        await asyncio.sleep(min(BUSY_TICK_S * 2 ** self._failures[key], RETRY_MOST_S))
        try:
            attempt = await self._store.attempt(*key)
            job = await self._store.job(attempt.job_id)
        except NotFound:
            # Purged meanwhile: nobody wants anything of it any more.
            return
        executor = self._executors.get(attempt.executor)
        if attempt.ended_at is None and job.intent == "cancel" and executor is not None:
            await self._supervisor(job, attempt, executor).give_up()
        else:
            self._look_after(job, attempt)

    async def _look_at_engine(self) -> None:
        """Whether it answers. One that did when it was last asked is planned for while it is asked again."""
        if time.monotonic() - self._engine_seen < ENGINE_TRUST_S:
            return
        if self._asking is not None and self._asking.done():
            self._asking.result()
            self._asking = None
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_engine(), name="engine")
            self._tasks.add(self._asking)
            self._asking.add_done_callback(self._tasks.discard)
        if self.engine is None:
            await self._asking

    async def _ask_engine(self) -> None:
        asked = time.monotonic()
        try:
            engine = await self.executor.check()
            self.engine_latency_s = time.monotonic() - asked
            if engine != self.engine:
                self.engine_facts = await self.executor.facts()
            self.engine, self.engine_error = engine, None
            self._engine_seen = time.monotonic()
        except EngineUnavailable as error:
            if self.engine is not None:
                logger.warning("%s", error)
                self.wake()
            self.engine, self.engine_error = None, error.message

    async def _sweep(self) -> None:
        """Remove what ended attempts left behind because the orchestrator or the engine went away in between."""
        with suppress(EngineUnavailable):
            unknown: list[str] = []
            for owned in await self.executor.list_owned():
                if (owned.job_id, owned.attempt) in self._supervisors:
                    continue
                try:
                    attempt = await self._store.attempt(owned.job_id, owned.attempt)
                    if attempt.ended_at is not None:
                        await self._supervise(attempt)
                except NotFound:
                    unknown.append(owned.handle)
            await self._reap(unknown)

    async def _reap(self, unknown: Sequence[str]) -> None:
        """Remove containers that have belonged to no known job for longer than the grace: nobody will want them."""
        now = time.monotonic()
        self._orphans = {handle: self._orphans.get(handle, now) for handle in unknown}
        for handle, since in self._orphans.items():
            left_s = since + self._settings.orphan_grace_s - now
            if left_s > 0:
                logger.warning("%s belongs to no known job; it will be removed in %.0f s", handle, left_s)
                continue
            if handle not in self._reaping:
                logger.warning("%s belongs to no known job; removing it", handle)
                self._reaping.add(handle)
                # Not here: it may take its whole grace to end, and the plan would wait for it.
                task = asyncio.create_task(self._remove_orphan(handle), name=f"remove {handle}")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _remove_orphan(self, handle: str) -> None:
        try:
            await self.executor.stop(handle, self._settings.grace_s)
            faults.reach("orphan_stopped")
            await self.executor.remove(handle)
        except EngineUnavailable as error:
            logger.warning("%s is left for the next look: %s", handle, error)
        finally:
            self._reaping.discard(handle)


def _unplanned(waits: Waits) -> Wait:
    return Wait("next_in_line", "came since the last plan; the next one is about to be made", len(waits) + 1)
