"""What a user may ask of a job: submit, cancel, pause, resume, stop, checkpoint, restart, purge."""

import asyncio
import errno
import logging
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import UUID, uuid4

from orchestrator import faults
from orchestrator.broker import Broker
from orchestrator.changes import changes_made, taken_up
from orchestrator.domain import ACTIVE, TERMINAL, Checkpoint, Intent, Job, JobStatus, Params, Sweep, best_checkpoint
from orchestrator.errors import ContainerLeft, NotFound, OrchestratorError, StaleTransition, StateConflict
from orchestrator.scheduler import Scheduler
from orchestrator.settings import Settings
from orchestrator.store import JobFilter, Store
from orchestrator.store.submissions import Asked
from orchestrator.supervisor import newest_checkpoint
from orchestrator.sweeps import MOST_JOBS
from orchestrator.views import JobChanges
from worker_image.contract.commands import (
    CheckpointNow,
    Command,
    ParameterValue,
    Pause,
    SetLearningRate,
    SetParameters,
    Stop,
    Validate,
)
from worker_image.contract.jobs import JOB_TYPES
from worker_image.contract.rundir import RunDir, step_of

logger = logging.getLogger(__name__)

BEST = "best"
"""Stands for the name of the checkpoint with the lowest loss on held-out tokens."""
REMOVAL_S = 5.0
"""How long a purge waits for the removal of a container that has only just ended."""
REMOVAL_POLL_S = 0.05
DELETE_TRIES = 3
"""How often a directory is gone through in which something appears while it is deleted."""


def available_actions(job: Job) -> list[str]:
    """The actions the job's state and type allow now."""
    commands = JOB_TYPES[job.type].commands
    changes = sorted(commands & {"set_learning_rate", "set_parameters"})
    match job.status:
        case JobStatus.QUEUED:
            return ["cancel", "pause", *changes]
        case JobStatus.PAUSED:
            return ["cancel", "resume", "stop", *changes]
        case JobStatus.STARTING | JobStatus.RUNNING:
            return ["cancel", "stop", *sorted(commands - {"stop"})]
        case JobStatus.PAUSING:
            return ["cancel", "resume" if job.intent == "pause" else "pause", "stop"]
        case JobStatus.STOPPING:
            return ["cancel"] if job.intent != "cancel" else []
        case _:
            return ["purge"] if job.purging_at is not None else ["restart", "purge"]


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """Which checkpoint of a job is meant."""

    name: str
    """Its directory's, or ``best``: the one with the lowest loss on held-out tokens."""
    attempt: int | None = None
    """The newest that has it when empty."""


class Control:
    """Turns a request into a durable change of the store, then wakes whoever acts on it.

    Every method answers with the job as it is afterwards and raises ``NotFound`` for an unknown id and
    ``StateConflict`` when the job's state or type does not allow it.
    """

    def __init__(self, *, store: Store, scheduler: Scheduler, broker: Broker, settings: Settings) -> None:
        self._store, self._scheduler, self._broker, self._settings = store, scheduler, broker, settings

    async def submitted(self, asked: Asked) -> Job | None:
        """The job that this request made before."""
        return await self._store.submitted(asked.key, asked.digest)

    async def submit(self, job: Job, asked: Asked | None = None) -> Job:
        key, digest = (asked.key, asked.digest) if asked is not None else (None, "")
        job = await self._store.submit(job, idempotency_key=key, request_digest=digest)
        self._changed(job)
        return job

    async def cancel(self, job_id: UUID) -> Job:
        """Kill it. Wins in every state but the terminal ones; repeating it changes nothing."""

        async def change(job: Job) -> Job:
            if job.status is JobStatus.CANCELLED or job.intent == "cancel":
                return job
            if job.status in (JobStatus.QUEUED, JobStatus.PAUSED):
                return await self._store.transition(job, JobStatus.CANCELLED, "cancelled by the user", intent="cancel")
            if job.status in ACTIVE:
                return await self._store.interrupt(job, "cancel", "cancelled by the user", phase="cancelling")
            raise _conflict(job, "cancel", "it has ended already")

        return await self._changing(job_id, change)

    async def pause(self, job_id: UUID) -> Job:
        """Checkpoint, exit and free the GPU; a queued job just leaves the queue."""

        async def change(job: Job) -> Job:
            if job.status is JobStatus.PAUSED or (job.status is JobStatus.PAUSING and job.intent == "pause"):
                return job
            if job.status is JobStatus.PAUSING:
                return await self._store.want(job, "pause", phase="pausing")
            if job.status is JobStatus.QUEUED:
                return await self._store.transition(job, JobStatus.PAUSED, "paused by the user", intent="pause")
            if job.status not in (JobStatus.STARTING, JobStatus.RUNNING):
                raise _conflict(job, "pause", "only a queued or running job can be paused")
            if not JOB_TYPES[job.type].resumable:
                raise _conflict(
                    job, "pause", f"{job.type} jobs cannot continue where they were; stop or cancel it instead"
                )
            return await self._command(
                job, Pause(id=uuid4(), ts=time.time()), to=JobStatus.PAUSING, intent="pause", phase="pausing"
            )

        return await self._changing(job_id, change)

    async def resume(self, job_id: UUID) -> Job:
        """Queue it again; the next attempt continues from the newest checkpoint.

        One that is still pausing goes back to the queue as soon as it has.
        """

        async def change(job: Job) -> Job:
            if job.status is JobStatus.PAUSING:
                return await self._store.want(job, "requeue", phase="pausing, to be resumed")
            if job.status is not JobStatus.PAUSED:
                raise _conflict(job, "resume", "only a paused job can be resumed")
            return await self._store.transition(job, JobStatus.QUEUED, "resumed by the user", intent="run", retries=0)

        return await self._changing(job_id, change)

    async def stop(self, job_id: UUID) -> Job:
        """End it for good, with a final checkpoint if its worker can write one.

        A paused job just ends: its checkpoint stays, and a restart continues from it.
        """

        async def change(job: Job) -> Job:
            if job.status is JobStatus.STOPPED or (job.status is JobStatus.STOPPING and job.intent == "stop"):
                return job
            if job.status in (JobStatus.QUEUED, JobStatus.PAUSED):
                return await self._store.transition(job, JobStatus.STOPPED, "stopped by the user", intent="stop")
            if job.status not in ACTIVE or job.intent == "cancel":
                raise _conflict(job, "stop", "it has ended already, or is about to")
            if "stop" not in JOB_TYPES[job.type].commands:
                return await self._store.interrupt(job, "stop", "stopped by the user", phase="stopping")
            return await self._command(
                job, Stop(id=uuid4(), ts=time.time()), to=JobStatus.STOPPING, intent="stop", phase="stopping"
            )

        return await self._changing(job_id, change)

    async def checkpoint(self, job_id: UUID) -> Job:
        """Write a checkpoint now and go on."""
        return await self._tell(job_id, CheckpointNow(id=uuid4(), ts=time.time()))

    async def set_learning_rate(self, job_id: UUID, lr: float) -> Job:
        """Replace the peak learning rate of a job, from its next step on."""
        return await self._tell(job_id, SetLearningRate(id=uuid4(), ts=time.time(), lr=lr))

    async def validate(self, job_id: UUID) -> Job:
        """Measure on the held-out tokens now and go on."""
        return await self._tell(job_id, Validate(id=uuid4(), ts=time.time()))

    async def set_parameters(self, job_id: UUID, values: Mapping[str, ParameterValue]) -> UUID:
        """Have a job take up these values, from its next step on; the command's id."""
        asked = SetParameters(id=uuid4(), ts=time.time(), values=dict(values))
        await self._tell(job_id, asked)
        return asked.id

    async def restart(
        self,
        job_id: UUID,
        *,
        fresh: bool,
        checkpoint: CheckpointRef | None = None,
        changed: Callable[[Params], Params] = lambda params: params,
        asked: Asked | None = None,
    ) -> Job:
        """A new job with the same parameters, or what ``changed`` makes of them: an ended one never changes.

        Unless ``fresh``, it continues from the ``checkpoint``, or else from the newest one of a job that did not
        complete. What had become of the parameters by then is what it begins with. A request that came before gets
        the job that it made then.
        """
        old = await self._store.job(job_id)
        require_kept(old, "restart")
        if old.status not in TERMINAL:
            raise _conflict(old, "restart", "it has not ended; stop or cancel it first, or resume it if it is paused")
        resume_from = None
        if checkpoint is not None:
            found, path = await self._checkpoint(job_id, checkpoint)
            if found.is_anomaly:
                raise StateConflict(
                    f"{found.name} shows what went wrong: a training that continued from it would fail at once",
                    suggestion="continue from a step_N checkpoint, with a lower lr",
                )
            resume_from = str(path)
        elif not fresh and old.status is not JobStatus.COMPLETED and JOB_TYPES[old.type].resumable:
            resume_from = await self._newest_checkpoint(job_id)
        faults.reach("restart_begun")
        job = Job(
            id=uuid4(),
            name=old.name,
            params=changed(await self._params_at(old, resume_from)),
            resources=old.resources,
            status=JobStatus.QUEUED,
            created_at=datetime.now(UTC),
            owner=old.owner,
            priority=old.priority,
            tags=old.tags,
            retry=old.retry,
            inputs=old.inputs,
            secrets=old.secrets,
            restarted_from=old.id,
            resume_from=resume_from,
        )
        return await self.submit(job, asked)

    async def _params_at(self, job: Job, checkpoint: str | None) -> Params:
        """A job's parameters as they were in force at a checkpoint, or where it began."""
        step = step_of(checkpoint) or 0
        made = changes_made(await self._store.commands(job.id))
        return taken_up(job.params, (change for change in made if change.step <= step))

    async def delete_checkpoint(self, job_id: UUID, checkpoint: CheckpointRef) -> None:
        """Delete a checkpoint that nothing needs any more.

        Raises:
            StateConflict: the job runs, or something will continue from it.
        """
        job = await self._store.job(job_id)
        require_kept(job, "delete a checkpoint of")
        found, path = await self._checkpoint(job_id, checkpoint)
        if job.status in ACTIVE:
            raise StateConflict(
                f"the job is {job.status}, and its worker looks after its checkpoints",
                suggestion="pause or stop it first, or lower keep_checkpoints",
            )
        if job.status not in TERMINAL and await newest_checkpoint(self._store, self._settings.home, job_id) == path:
            raise StateConflict(f"the job continues from {path.name}", suggestion="stop it first")
        await self._store.removals.begin_checkpoint(found, path, seen_as=job)
        await self._remove_checkpoint(found)

    async def _remove_checkpoint(self, marked: Checkpoint) -> None:
        path = RunDir.of(self._settings.home, marked.job_id, marked.attempt).checkpoint(marked.name)
        if path is not None:
            await asyncio.to_thread(_delete, path)
            faults.reach("checkpoint_gone")
        await self._store.removals.forget_checkpoint(marked)
        self._broker.ring()

    async def _checkpoint(self, job_id: UUID, wanted: CheckpointRef) -> tuple[Checkpoint, Path]:
        """A checkpoint and where it lies. Raises: NotFound."""
        all_of_them = await self._store.checkpoints(job_id)
        name = wanted.name
        if name == BEST and (best := best_checkpoint(all_of_them)) is not None:
            name, wanted = best.name, replace(wanted, attempt=wanted.attempt or best.attempt)
        for found in all_of_them:
            if found.name == name and wanted.attempt in (None, found.attempt):
                path = RunDir.of(self._settings.home, job_id, found.attempt).checkpoint(found.name)
                if path is not None:
                    return found, path
        raise NotFound(
            f"job {job_id} has no checkpoint {wanted.name!r}",
            field="checkpoint",
            suggestion="GET .../checkpoints lists those there are",
        )

    async def update(self, job_id: UUID, changes: JobChanges) -> Job:
        """Change what is said of a job, and what its next attempt asks for.

        How it is scheduled is of no account any more once it has ended; its resources are taken up when an attempt
        begins, so they change only between attempts.
        """
        given = changes.model_fields_set - {name for name, value in changes if value is None}

        async def change(job: Job) -> Job:
            for name in sorted(given & {"priority", "retry"}):
                if job.status in TERMINAL:
                    raise _conflict(job, f"change the {name} of", "it has ended")
            if "resources" in given and job.status not in (JobStatus.QUEUED, JobStatus.PAUSED):
                raise _conflict(job, "change the resources of", "only between attempts; pause it first")
            values = {name: getattr(changes, name) for name in given}
            if "tags" in given:
                values["tags"] = tuple(dict.fromkeys(values["tags"]))
            return await self._store.update(job, replace(job, **values))

        return await self._changing(job_id, change)

    async def submit_sweep(self, sweep: Sweep, jobs: Sequence[Job], asked: Asked | None = None) -> Sweep:
        """Keep a sweep with all of its jobs, or nothing of it; the one that the request made before, if it did."""
        sweep = await self._store.sweeps.submit(sweep, jobs, asked)
        self._scheduler.wake()
        self._broker.ring()
        return sweep

    async def start_step(self, pipeline_id: UUID, step: str, job: Job) -> None:
        """Queue the job of a pipeline's step, once."""
        if await self._store.pipelines.start(pipeline_id, step, job):
            self._changed(job)

    async def limit_sweep(self, sweep_id: UUID, most: int | None) -> Sweep:
        """Let at most so many of its jobs run at once; those that run go on."""
        await self._store.sweeps.set_max_running(sweep_id, most)
        self._scheduler.wake()
        return await self._store.sweeps.get(sweep_id)

    async def act_on_sweep(
        self, sweep_id: UUID, action: Literal["cancel", "pause", "resume", "stop"]
    ) -> tuple[int, int]:
        """Do the same to every job of a sweep; how many it was done to, and how many do not allow it."""
        await self._store.sweeps.get(sweep_id)
        jobs, _ = await self._store.jobs(JobFilter(sweep=sweep_id), limit=MOST_JOBS)
        act = {"cancel": self.cancel, "pause": self.pause, "resume": self.resume, "stop": self.stop}[action]
        done = 0
        # The last first: a job that is cancelled must not make room for one that is about to be.
        for job in jobs:
            if action in available_actions(job):
                with suppress(StateConflict):
                    await act(job.id)
                    done += 1
        return done, len(jobs) - done

    async def purge(self, job_id: UUID) -> None:
        """Delete an ended job with its log, checkpoints and artifacts, once its container is gone.

        One that was begun before is finished.
        """
        deadline = time.monotonic() + REMOVAL_S
        while True:
            try:
                await self._store.removals.begin_purge(job_id)
                break
            except ContainerLeft:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(REMOVAL_POLL_S)
        faults.reach("purge_begun")
        await self._finish_purge(job_id)

    async def _finish_purge(self, job_id: UUID) -> None:
        await asyncio.to_thread(_delete, self._settings.runs / str(job_id))
        faults.reach("purge_deleted")
        await self._store.removals.purge(job_id)
        self._broker.ring(job_id)

    async def finish_removals(self) -> None:
        """Finish what the orchestrator before was deleting when it died. What fails can be asked for again."""
        for job_id in await self._store.removals.purging():
            with _told_if_it_fails(f"job {job_id}"):
                await self._finish_purge(job_id)
        for checkpoint in await self._store.removals.deleting():
            with _told_if_it_fails(f"checkpoint {checkpoint.name} of job {checkpoint.job_id}"):
                await self._remove_checkpoint(checkpoint)

    async def _newest_checkpoint(self, job_id: UUID) -> str | None:
        path = await newest_checkpoint(self._store, self._settings.home, job_id)
        if path is not None:
            return str(path)
        inherited = (await self._store.job(job_id)).resume_from
        if inherited is not None and not await asyncio.to_thread(Path(inherited).is_dir):
            raise StateConflict(f"its checkpoint {inherited} is gone", suggestion="restart it afresh (fresh: true)")
        return inherited

    async def _tell(self, job_id: UUID, command: Command) -> Job:
        async def change(job: Job) -> Job:
            if command.type not in JOB_TYPES[job.type].commands:
                raise _conflict(job, command.type, f"{job.type} jobs do not take this command")
            if job.status in (JobStatus.STARTING, JobStatus.RUNNING):
                return await self._command(job, command, to=None, intent=None, phase="")
            if not isinstance(command, SetLearningRate | SetParameters):
                raise _conflict(job, command.type, "only a running job can do that")
            if job.status not in (JobStatus.QUEUED, JobStatus.PAUSED):
                raise _conflict(job, command.type, "its attempt is ending, or was its last")
            return await self._change_next(job, command)

        return await self._changing(job_id, change)

    async def _change_next(self, job: Job, command: SetLearningRate | SetParameters) -> Job:
        """Have its next attempt make the change where it begins."""
        values: Mapping[str, ParameterValue] = (
            {"lr": command.lr} if command.type == "set_learning_rate" else command.values
        )
        for name in values:
            if name in job.params.varied():
                raise _conflict(job, command.type, f"{name} differs between the autoencoders of this job")
        path = await self._newest_checkpoint(job.id)
        step = step_of(path) or 0
        told = ", ".join(f"{name} {value}" for name, value in values.items())
        return await self._store.change_between(job, command, step=step, detail=f"{told} from step {step + 1}")

    async def _command(
        self, job: Job, command: Command, *, to: JobStatus | None, intent: Intent | None, phase: str
    ) -> Job:
        return await self._store.request(
            job, command, to=to, reason=f"{command.type} asked for by the user", intent=intent, phase=phase
        )

    async def _changing(self, job_id: UUID, change: Callable[[Job], Awaitable[Job]]) -> Job:
        """Read, decide, compare-and-set; once more from the start whenever the job moved in between."""
        while True:
            job = await self._store.job(job_id)
            try:
                changed = await change(job)
            except StaleTransition:
                continue
            self._changed(changed)
            return changed

    def _changed(self, job: Job) -> None:
        self._scheduler.nudge(job.id)
        self._broker.ring(job.id)


_VERBS = {"set_learning_rate": "change the learning rate of", "set_parameters": "change the parameters of"}


def _conflict(job: Job, action: str, why: str) -> StateConflict:
    return StateConflict(
        f"cannot {_VERBS.get(action, action)} a job that is {job.status}: {why}",
        suggestion=f"possible now: {', '.join(available_actions(job)) or 'nothing, it is being cancelled'}",
    )


def require_kept(job: Job, action: str) -> None:
    """Raises: StateConflict: the job is being purged."""
    if job.purging_at is not None:
        raise StateConflict(
            f"cannot {action} job {job.id}: it is being purged", suggestion="submit what you want of it anew"
        )


@contextmanager
def _told_if_it_fails(what: str) -> Iterator[None]:
    try:
        yield
    except NotFound:
        # Its user was faster.
        pass
    except (OrchestratorError, OSError, sqlite3.Error) as error:
        logger.error("%s cannot be deleted, ask for it again: %s", what, error)


def _delete(folder: Path) -> None:
    """Delete a directory and all in it, also while somebody else deletes parts of it, or adds a last one.

    Raises:
        OSError: something in it cannot be deleted.
    """
    for left in reversed(range(DELETE_TRIES)):
        if not folder.is_dir():
            return
        try:
            shutil.rmtree(folder, onerror=_unless_gone)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not left:
                raise


def _unless_gone(_function: object, _path: str, raised: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(raised[1], FileNotFoundError):
        raise raised[1]
