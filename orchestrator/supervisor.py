"""One attempt, from launch to settled.

Every step can be repeated: a supervisor that takes over after a crash starts at the same beginning, finds what its
predecessor did (the intent row, the container's name, the offsets) and goes on from there.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from orchestrator import faults
from orchestrator.broker import Broker
from orchestrator.changes import changes_made
from orchestrator.confined import leads_astray, open_for_append
from orchestrator.disk import FULL, is_full
from orchestrator.domain import Attempt, EndReason, Job, JobStatus
from orchestrator.elapsed import Elapsed
from orchestrator.errors import (
    DiskFull,
    EngineUnavailable,
    ImageMissing,
    LaunchFailed,
    NotFound,
    StaleTransition,
    StateConflict,
)
from orchestrator.executors.base import Executor, LaunchSpec, Observation, RunState
from orchestrator.growth import Growth
from orchestrator.inventory import plain_part
from orchestrator.journal import about
from orchestrator.lookout import Lookout, Watch
from orchestrator.outcome import NEVER_BEGUN, Facts, Outcome, launch_outcome, outcome
from orchestrator.quota import LOOK_S as QUOTA_LOOK_S
from orchestrator.quota import LogQuota
from orchestrator.record import write_begun, write_settled
from orchestrator.settings import Settings
from orchestrator.settlement import settlement
from orchestrator.store import Ended, Store
from orchestrator.superseded import delete_superseded, earlier_checkpoints
from orchestrator.tail import WHOLE, read_last_lines, read_lines, read_piece
from orchestrator.vault import Vault, scrubbed
from worker_image.contract.activations import ActivationParams
from worker_image.contract.commands import AppliedChange, command
from worker_image.contract.events import CheckpointSaved, Event, event
from worker_image.contract.jobs import JOB_TYPES, ContainerParams
from worker_image.contract.retention import EarlierCheckpoint
from worker_image.contract.rundir import RunDir, RunSpec, step_of

logger = logging.getLogger(__name__)


class _Gone(Exception):
    """It was started before, and is no longer there: nobody saw it end, and it is never started twice."""


INGEST_BYTES = 1 << 20
INGEST_PAUSE_S = 0.05
"""Between two times that events are stored as they come: many small ones become one transaction."""
THIN_EVERY = 1000
"""Events stored before those beyond the history are forgotten."""
LOG_TAIL_LINES = 200
LOG_TAIL_BYTES = 64_000
ENGINE_RETRY_S = 2.0
TELL_S = 1.0
"""Between two times that a job's phase says how far the pull of its image is."""
TERM_GRACE_S = 10.0
HEARTBEAT_S = 5.0
"""Longest rest between two looks at what is wanted of a running job, should nobody have said that something is."""
UNREACHABLE = "engine unreachable, state unknown"
"""The phase of a job whose engine does not answer."""


def run_spec(
    job: Job,
    attempt: Attempt,
    settings: Settings,
    changes: tuple[AppliedChange, ...] = (),
    earlier: tuple[EarlierCheckpoint, ...] = (),
) -> RunSpec:
    """What the worker is given: ``changes`` of parameters that earlier attempts made and checkpoints that they left
    among it."""
    cached = _caches(job, settings)
    return RunSpec(
        job_id=job.id,
        attempt=attempt.number,
        name=job.name,
        params=job.params,
        inputs=job.inputs or {},
        resume_from=attempt.resume_from,
        earlier=earlier,
        changes=changes,
        cache=str(settings.activation_cache) if cached else None,
        cache_mb=settings.activation_cache_mb if cached else None,
        cpus=attempt.cpus,
        gpus=len(attempt.gpus),
        gpu_memory_mb=attempt.gpu_memory_mb,
    )


def _caches(job: Job, settings: Settings) -> bool:
    """Whether the job may keep activations for others, and find theirs."""
    return isinstance(job.params, ActivationParams) and settings.activation_cache_mb > 0


def image_of(job: Job, settings: Settings) -> str:
    """The image the job's container is made from."""
    return job.params.image if isinstance(job.params, ContainerParams) else settings.worker_image


def launch_spec(job: Job, attempt: Attempt, settings: Settings) -> LaunchSpec:
    """What the executor is given."""
    run_dir = RunDir.of(settings.home, job.id, attempt.number)
    params = job.params
    generic = isinstance(params, ContainerParams)
    inputs = [plain_part(value) for value in (job.inputs or {}).values() if value.startswith("/")]
    if attempt.resume_from is not None:
        inputs.append(Path(attempt.resume_from))
    return LaunchSpec(
        job_id=job.id,
        attempt=attempt.number,
        name=attempt.name,
        image=image_of(job, settings),
        argv=params.argv(str(run_dir.path)),
        run_dir=run_dir.path,
        read_only=tuple(inputs),
        read_write=(settings.activation_cache,) if _caches(job, settings) else (),
        secrets=Vault(settings).lent_at(attempt.name) if job.secrets else None,
        secret_names=job.secrets,
        env=(*_grants(attempt), *(sorted(params.env.items()) if isinstance(params, ContainerParams) else ())),
        gpus=attempt.gpus,
        cpus=attempt.cpus,
        memory_mb=job.resources.memory_mb,
        shm_mb=job.resources.shm_mb,
        pids=job.resources.pids,
        network=params.network,
        builtin=not generic,
    )


def _grants(attempt: Attempt) -> Iterator[tuple[str, str]]:
    """What the program itself has to keep to, because nothing else holds it to it."""
    if attempt.gpu_memory_mb is not None:
        yield "SAEFORGE_GPU_MEMORY_MB", str(attempt.gpu_memory_mb)


class Supervisor:
    """Looks after one attempt. ``run`` returns when it is settled and its leases are free."""

    def __init__(
        self,
        job: Job,
        attempt: Attempt,
        *,
        store: Store,
        executor: Executor,
        broker: Broker,
        settings: Settings,
        growth: Growth,
        lookout: Lookout,
        lost_gpus: Callable[[Collection[str]], Awaitable[tuple[str, ...]]],
    ) -> None:
        """``lost_gpus`` tells which of these GPUs no longer answer, in words."""
        self.attempt = attempt
        self._job, self._job_id = job, job.id
        self._spec = launch_spec(job, attempt, settings)
        self._run_dir = RunDir(self._spec.run_dir)
        self._commands = JOB_TYPES[job.type].commands
        self._timeout_s = job.resources.timeout_s
        self._running = Elapsed.since(attempt.started_at) if attempt.started_at else None
        self._asked: dict[UUID, Elapsed] = {}
        """Command to end -> how long ago it was given."""
        self._store, self._executor, self._broker, self._settings = store, executor, broker, settings
        self._lookout = lookout
        self._growth, self._quota = growth, LogQuota(self._run_dir, settings.log_quota_mb << 20)
        self._offset = attempt.events_offset
        self._delivered: set[str] | None = None
        self._nudged = asyncio.Event()
        self._stirred = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._unthinned = 0
        self._log_trouble = ""
        self._timed_out = False
        self._lost_gpus, self._gpu_is_lost = lost_gpus, False
        self._overdue_ended = False
        self._phase_before = "running"
        self._vault = Vault(settings)
        self._secrets: tuple[str, ...] | None = None if job.secrets else ()

    def gpu_lost(self) -> None:
        """A GPU it holds no longer answers: have it end, with a checkpoint if it still can."""
        if not self._gpu_is_lost:
            logger.error("%s has lost its GPU; ending it", self.attempt.name)
            self._gpu_is_lost = True
            self.nudge()

    def nudge(self) -> None:
        """Look again now: the user asked for something."""
        self._nudged.set()
        self._stirred.set()

    async def run(self) -> None:
        with about(job_id=str(self._job_id), attempt=self.attempt.number):
            await self._look_after()

    async def _look_after(self) -> None:
        handle = self.attempt.handle
        try:
            if self.attempt.ended_at is None:
                try:
                    handle = handle or await self._launch()
                    if handle:
                        await self._now_running()
                    with self._growth.watch(self._run_dir.events, self._stirred.set):
                        seen = await self._watch(handle) if handle else None
                    faults.reach("exit_seen")
                    await self._settle(partial(self._outcome, seen), seen)
                except _Gone:
                    seen = Observation(RunState.MISSING)
                    await self._settle(partial(self._outcome, seen), seen)
                except (ImageMissing, LaunchFailed) as error:
                    await self._settle(partial(_launch_outcome, error), None)
                    handle = await self._find()
            else:
                handle = handle or await self._find()
            faults.reach("settled")
            if handle:
                await self._insist(self._executor.remove, handle)
            faults.reach("removed")
            await self._take_secrets_back()
            await self._store.free(self.attempt, half_life_s=self._settings.half_life_s)
            faults.reach("freed")
        finally:
            if self._ending is not None:
                self._ending.cancel()

    # --- launch

    async def _launch(self) -> str | None:
        """Start the attempt, or find it started. None when the user wanted it to end before anything was."""
        faults.reach("begun")
        try:
            changes = changes_made(await self._store.commands(self._job_id))
            earlier = await earlier_checkpoints(self._store, self._settings.home, self.attempt)
            await asyncio.to_thread(self._lay_out, run_spec(self._job, self.attempt, self._settings, changes, earlier))
        except OSError as error:
            advice = "free space under SAEFORGE_HOME, or give the orchestrator write access to it; then restart the job"
            raise LaunchFailed(f"the run directory cannot be made: {error}", suggestion=advice) from error
        faults.reach("run_dir_made")
        if await asyncio.to_thread(self._run_dir.claim.exists) and await self._find() is None:
            raise _Gone
        looked_again = False
        while True:
            job = await self._store.job(self._job_id)
            if job.intent != "run":
                return await self._find()
            try:
                if not await self._prepare():
                    continue
                faults.reach("prepared")
                await asyncio.to_thread(self._check_inputs)
                if job.secrets:
                    await asyncio.to_thread(self._vault.lend, self.attempt.name, job.secrets, job.owner)
                handle = await self._launch_unless_image_gone(last=looked_again)
            except EngineUnavailable as error:
                await self._engine_lost(error)
                continue
            if handle is None:
                looked_again = True
                continue
            faults.reach("launched")
            await self._store.attach(self.attempt, handle)
            faults.reach("attached")
            self._running = Elapsed.since(datetime.now(UTC))
            return handle

    async def _launch_unless_image_gone(self, *, last: bool) -> str | None:
        """Launch it; None when the image, there a moment ago, was removed since and is worth another look."""
        try:
            return await self._executor.launch(self._spec)
        except ImageMissing:
            if last:
                raise
            return None

    def _lay_out(self, spec: RunSpec) -> None:
        self._run_dir.create(spec)
        if spec.cache is not None:
            Path(spec.cache).mkdir(parents=True, exist_ok=True)
        write_begun(self._run_dir, self._job, self.attempt)

    def _check_inputs(self) -> None:
        """What was found when the job was submitted may have been rearranged since. Raises: LaunchFailed."""
        roots = (*self._settings.roots, self._settings.runs)
        for path in self._spec.read_only:
            if leads_astray(path, roots):
                raise LaunchFailed(
                    f"a link now leads {path} elsewhere than when the job was submitted",
                    suggestion="remove the link, or submit the job again with the path it leads to",
                )

    async def _now_running(self) -> None:
        if self._job.status is not JobStatus.STARTING:
            return
        job = await self._store.job(self._job_id)
        if job.status is JobStatus.STARTING:
            # A pause or stop that came in between is the newer wish and stands.
            with suppress(StateConflict):
                await self._store.transition(job, JobStatus.RUNNING, "it runs", phase="running")
        self._broker.ring(self._job_id)

    async def _prepare(self) -> bool:
        """Make the image available, telling how far that is; False as soon as the user wants the job to end."""
        words: list[str] = []
        task = asyncio.ensure_future(self._executor.prepare(self._spec.image, words.append))
        try:
            while not task.done():
                nudge = asyncio.ensure_future(self._nudged.wait())
                await asyncio.wait({task, nudge}, timeout=TELL_S, return_when=asyncio.FIRST_COMPLETED)
                nudge.cancel()
                if self._nudged.is_set():
                    self._nudged.clear()
                    if (await self._store.job(self._job_id)).intent != "run":
                        return False
                await self._tell(words)
            await task
            return True
        finally:
            task.cancel()

    async def _tell(self, words: list[str]) -> None:
        """The newest of these words are what the job does now."""
        if words:
            phase = words[-1]
            words.clear()
            await self._store.set_phase(self._job_id, phase)
            self._broker.ring(self._job_id)

    async def _find(self) -> str | None:
        """The handle of this attempt, if the executor knows it by its labels."""
        owned = await self._insist(self._executor.list_owned)
        for item in owned:
            if (item.job_id, item.attempt) == (self._job_id, self.attempt.number):
                return str(item.handle)
        return None

    # --- watch

    async def _watch(self, handle: str) -> Observation:
        """Carry events in and commands out until the attempt no longer runs."""
        with self._lookout.watch(handle, self.nudge) as watch:
            while True:
                more = await self._ingest()
                if self._quota.due():
                    await self._bound_log()
                job = await self._store.job(self._job_id)
                try:
                    seen = await self._look(watch)
                    await self._engine_found(job)
                    if seen.state in (RunState.EXITED, RunState.MISSING):
                        return seen
                    await self._steer(job, handle)
                    if seen.state is RunState.CREATED and job.intent != "cancel":
                        await self._executor.launch(self._spec)
                except EngineUnavailable as error:
                    await self._engine_lost(error)
                    continue
                if not more:
                    await self._rest(self._patience_s(job))

    async def _look(self, watch: Watch) -> Observation:
        """What is known from the look at all attempts; one that no longer runs is looked at for itself."""
        if await watch.state() is RunState.RUNNING:
            return Observation(RunState.RUNNING)
        return await self._executor.inspect(watch.handle)

    def _patience_s(self, job: Job) -> float:
        """How long it can be left alone: user, worker and executor make themselves heard, the clock does not."""
        if job.intent != "run":
            return self._settings.poll_s
        left_s = self._left_s()
        return HEARTBEAT_S if left_s is None else max(min(left_s, HEARTBEAT_S), self._settings.poll_s)

    async def _steer(self, job: Job, handle: str) -> None:
        """Do what the user, or the clock, asks for."""
        if job.intent == "cancel":
            faults.reach("cancel_seen")
            await self._executor.stop(handle, 0)
            faults.reach("killed")
            return
        await self._deliver()
        if self._gpu_is_lost:
            self._end(handle, self._settings.grace_s)
        elif self._overran():
            self._timed_out = True
            self._end(handle, self._settings.grace_s)
        elif job.intent == "stop" and "stop" not in self._commands:
            self._end(handle, self._settings.grace_s)
        elif job.intent in ("requeue", "pause", "stop") and await self._overdue(job.intent):
            self._overdue_ended = True
            self._end(handle, TERM_GRACE_S)

    def _left_s(self) -> float | None:
        """Seconds until it has run for too long; none when it may run for ever."""
        if not self._timeout_s or self._running is None:
            return None
        return self._timeout_s - self._running.seconds

    def _overran(self) -> bool:
        left_s = self._left_s()
        return left_s is not None and left_s < 0

    def _end(self, handle: str, grace_s: float) -> None:
        """SIGTERM and, after the grace, SIGKILL, without holding up the watch."""
        if self._ending is None or (self._ending.done() and self._ending.exception() is not None):
            self._ending = asyncio.create_task(self._executor.stop(handle, grace_s))

    async def _overdue(self, intent: str) -> bool:
        told = "stop" if intent == "stop" else "pause"
        asked = [
            self._asked.setdefault(item.id, Elapsed.since(item.requested_at))
            for item in await self._store.commands(self._job_id)
            if item.type == told and item.attempt == self.attempt.number
        ]
        return bool(asked) and asked[-1].seconds > self._settings.grace_s

    async def _deliver(self) -> None:
        """Append requested commands to the command file, each once: the file itself tells which it has."""
        requested = [
            item
            for item in await self._store.commands(self._job_id)
            if item.attempt == self.attempt.number and item.status == "requested"
        ]
        if requested:
            await asyncio.to_thread(self._append_commands, [(str(item.id), item.body) for item in requested])

    def _append_commands(self, requested: list[tuple[str, str]]) -> None:
        path = self._run_dir.commands
        written = read_piece(path, 0, WHOLE).data if self._delivered is None else b""
        delivered = self._delivered if self._delivered is not None else _command_ids(written)
        fresh = [(name, body) for name, body in requested if name not in delivered]
        if fresh:
            faults.reach("command_read")
            # Should this be cut short by a full disk, the file itself tells again what got there.
            self._delivered = None
            line_end = "" if written[-1:] in (b"", b"\n") else "\n"
            # The job owns the directory: a link in the file's place would have us write elsewhere.
            with open(open_for_append(path), "ab") as file:
                file.write((line_end + "".join(f"{body}\n" for _, body in fresh)).encode())
            faults.reach("command_delivered")
        self._delivered = delivered | {name for name, _ in fresh}

    async def _ingest(self) -> bool:
        """Store some of the events the worker has written since the last look; whether there may be more.

        One piece at a time, so that a flood of events cannot keep a cancel from being seen.
        """
        lines, offset = await asyncio.to_thread(read_lines, self._run_dir.events, self._offset, INGEST_BYTES)
        if offset == self._offset:
            return False
        faults.reach("events_read")
        if values := await self._lent():
            lines = [scrubbed(line.decode("utf-8", "replace"), values).encode() for line in lines]
        events = self._parsed(lines)
        await self._store.append_events(self.attempt, events, offset)
        faults.reach("events_stored")
        self._offset = offset
        if self.attempt.number > 1 and any(isinstance(one, CheckpointSaved) for one in events):
            await delete_superseded(self._store, self._settings.home, self._job, self.attempt)
        self._broker.ring(self._job_id)
        self._unthinned += len(events)
        if self._unthinned > THIN_EVERY:
            await self._store.thin_events(self._job_id, self._settings.event_history)
            self._unthinned = 0
        return True

    def _parsed(self, lines: list[bytes]) -> list[Event]:
        """The events in these lines; a line that is none stays in the file and is told in the orchestrator's log."""
        events: list[Event] = []
        for line in lines:
            try:
                events.append(event.validate_json(line))
            except ValidationError as error:
                logger.warning("%s: not an event: %.200r (%s)", self._run_dir.events, line, error.errors()[0]["msg"])
        return events

    async def _bound_log(self) -> None:
        """Keep the log within its quota; say so the first time something is dropped, or cannot be."""
        try:
            excess = await asyncio.to_thread(self._quota.enforce)
        except OSError as error:
            if str(error) != self._log_trouble:
                logger.warning("%s: its log cannot be kept within its quota: %s", self.attempt.name, error)
            self._log_trouble = str(error)
            return
        if excess is not None:
            told = {"attempt": self.attempt.number, "size_bytes": excess.size_bytes}
            told |= {"quota_mb": self._settings.log_quota_mb, "dropping": excess.dropped is not None}
            await self._store.note(self._job_id, "log_over_quota", told)
            self._broker.ring(self._job_id)

    async def _lent(self) -> tuple[str, ...]:
        """The values of the secrets this attempt has: none of them may get into the database or our own log."""
        if self._secrets is None:
            self._secrets = await asyncio.to_thread(self._vault.values, self.attempt.name)
        return self._secrets

    async def _take_secrets_back(self) -> None:
        if self._job.secrets:
            await asyncio.to_thread(self._vault.take_back, self.attempt.name)

    # --- settle

    async def _outcome(self, seen: Observation | None, job: Job) -> Outcome:
        while await self._ingest():
            pass
        await self._bound_log()
        if seen is None:
            return Outcome(NEVER_BEGUN[job.intent])
        tail = await asyncio.to_thread(read_last_lines, self._run_dir.log, LOG_TAIL_LINES, LOG_TAIL_BYTES)
        return outcome(
            Facts(
                intent=job.intent,
                exit_code=seen.exit_code if seen.state is RunState.EXITED else None,
                oom_killed=seen.oom_killed,
                engine_error=seen.error,
                finished=await self._store.finished(self.attempt),
                timed_out=self._timed_out,
                overran=self._overran(),
                overdue=self._overdue_ended,
                has_checkpoint=await self._newest_checkpoint() is not None,
                builtin=self._spec.builtin,
                memory_mb=job.resources.memory_mb,
                peak_memory_mb=(await self._store.attempt(self._job_id, self.attempt.number)).peak_memory_mb,
                shm_mb=job.resources.shm_mb,
                timeout_s=self._timeout_s,
                command=self._spec.argv[0],
                lost_gpus=await self._lost_gpus(self.attempt.gpus) if self.attempt.gpus else (),
                home_is_full=await asyncio.to_thread(is_full, self._settings.home),
                log_tail=scrubbed(tail.data.decode(errors="replace").strip(), await self._lent()),
            )
        )

    async def _settle(self, judge: Callable[[Job], Awaitable[Outcome]], seen: Observation | None) -> None:
        while True:
            job = await self._store.job(self._job_id)
            end = await judge(job)
            path = await self._newest_checkpoint()
            ended = settlement(
                job,
                end,
                exit_code=seen.exit_code if seen else None,
                resume_from=str(path) if path else None,
                progressed=self._has_progressed(path),
                now=datetime.now(UTC),
            )
            await self._write_settled(ended)
            # The user may have asked for something else since the job was read, a cancel for one: judge again.
            with suppress(StaleTransition):
                await self._store.finish(self.attempt, ended, seen_as=job)
                break
        if ended.status is JobStatus.QUEUED:
            faults.reach("requeued")
        logger.info("%s ended: %s", self.attempt.name, end.reason)
        self._broker.ring(self._job_id)

    async def _write_settled(self, ended: Ended) -> None:
        """Before the database says so, that whatever it knows can be rebuilt without it."""
        try:
            await asyncio.to_thread(write_settled, self._run_dir, ended)
        except OSError as error:
            if error.errno in FULL:
                raise DiskFull(f"{self._run_dir.settled}: {error.strerror}") from error
            # Somebody removed or closed the directory: no reason to look after the attempt for ever.
            logger.warning("%s cannot be written: %s", self._run_dir.settled, error.strerror)

    async def _newest_checkpoint(self) -> Path | None:
        return await newest_checkpoint(self._store, self._settings.home, self._job_id)

    def _has_progressed(self, newest: Path | None) -> bool:
        """Whether the newest checkpoint is the attempt's own, and further on than where it began."""
        if newest is None or not newest.is_relative_to(self._run_dir.path):
            return False
        # What fails at the end of a job writes the same step's checkpoint each time.
        return (step_of(newest) or 0) > (step_of(self.attempt.resume_from) or 0)

    async def give_up(self) -> None:
        """End the attempt as cancelled without looking at anything it reported: what it reported is what failed."""
        if (handle := self.attempt.handle or await self._find()) is not None:
            await self._insist(self._executor.remove, handle)
        await self._settle(_cancelled, None)
        await self._take_secrets_back()
        await self._store.free(self.attempt, half_life_s=self._settings.half_life_s)

    # --- waiting

    async def _insist(self, call: Any, *args: Any) -> Any:
        """Repeat an engine call until the engine answers."""
        while True:
            try:
                return await call(*args)
            except EngineUnavailable as error:
                await self._engine_lost(error)

    async def _engine_lost(self, error: EngineUnavailable) -> None:
        """Out of contact is no verdict on the job: say so, and look again later."""
        logger.warning("%s: %s", self.attempt.name, error)
        # A job purged while its container waits for removal has no phase any more.
        with suppress(NotFound):
            job = await self._store.job(self._job_id)
            if job.phase != UNREACHABLE:
                self._phase_before = job.phase
                await self._store.set_phase(self._job_id, UNREACHABLE)
        self._broker.ring(self._job_id)
        await self._pause(ENGINE_RETRY_S)

    async def _engine_found(self, job: Job) -> None:
        """In contact again: what it was doing is what it does."""
        if job.phase == UNREACHABLE:
            await self._store.set_phase(self._job_id, self._phase_before)
            self._broker.ring(self._job_id)

    async def _rest(self, seconds: float) -> None:
        """Wait for the next look, or until nudged; what the worker reports meanwhile is stored at once."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + seconds
        while not self._nudged.is_set() and loop.time() < ends_at:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(ends_at, loop.time() + QUOTA_LOOK_S)):
                    await self._stirred.wait()
            if self._stirred.is_set() and not self._nudged.is_set():
                self._stirred.clear()
                await self._ingest()
                await asyncio.sleep(min(INGEST_PAUSE_S, self._settings.poll_s))
            if self._quota.due():
                await self._bound_log()
        self._nudged.clear()

    async def _pause(self, seconds: float) -> None:
        """Wait, or until nudged."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._nudged.wait()
        self._nudged.clear()


def _command_ids(written: bytes) -> set[str]:
    """The ids of the commands in a command file; what is no command (a line that a full disk cut short) has none."""
    ids = set[str]()
    for line in written.split(b"\n"):
        with suppress(ValidationError):
            ids.add(str(command.validate_json(line).id))
    return ids


async def newest_checkpoint(store: Store, home: Path, job_id: UUID) -> Path | None:
    """The newest checkpoint of a job that is still on disk and that it can continue from."""
    for found in await store.checkpoints(job_id):
        if found.is_anomaly:
            continue
        path = await asyncio.to_thread(RunDir.of(home, job_id, found.attempt).checkpoint, found.name)
        if path is not None:
            return path
    return None


async def _cancelled(_: Job) -> Outcome:
    return Outcome(EndReason.CANCELLED)


async def _launch_outcome(error: ImageMissing | LaunchFailed, job: Job) -> Outcome:
    return Outcome(EndReason.CANCELLED) if job.intent == "cancel" else launch_outcome(error)
