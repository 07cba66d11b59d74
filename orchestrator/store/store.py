"""What is kept about jobs. Every change is one short transaction, durable before the call returns.

Changes of a job's status are compare-and-set against ``TRANSITIONS``; nothing follows a terminal status.
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from uuid import UUID

from pydantic_core import to_jsonable_python

from orchestrator import faults
from orchestrator.access import MACHINE, Principal
from orchestrator.domain import (
    TERMINAL,
    TRANSITIONS,
    Artifact,
    Attempt,
    Checkpoint,
    Intent,
    Job,
    JobFailure,
    JobStatus,
)
from orchestrator.errors import IdempotencyConflict, NotFound, StaleTransition, StateConflict
from orchestrator.event_names import Kind
from orchestrator.store import rows
from orchestrator.store.archive import Archive
from orchestrator.store.census import Census, Tallies, read_tallies, take_census, take_census_within
from orchestrator.store.database import Database, Session
from orchestrator.store.ingest import Reported
from orchestrator.store.jobs import NewJob, own_event, tag_values
from orchestrator.store.keys import Keys
from orchestrator.store.owners import Owners, charge
from orchestrator.store.paging import NEWEST_FIRST, Cursor, Sort, beyond, order
from orchestrator.store.pipelines import Pipelines, Schedules
from orchestrator.store.records import Ended, JobFilter, StoredCommand, StoredEvent
from orchestrator.store.recovery import Recovery
from orchestrator.store.removals import Removals
from orchestrator.store.series import SEAL_ROWS, Measurements
from orchestrator.store.sweeps import Sweeps
from orchestrator.store.turns import Turns
from orchestrator.store.webhooks import Webhooks
from orchestrator.usage import HALF_LIFE_S
from worker_image.contract.commands import Command
from worker_image.contract.events import (
    Event,
    Finished,
)


class Store:
    """All that is kept about jobs. Open one per database file and process."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self.keys = Keys(database)
        self.measurements = Measurements(database)
        self.archive = Archive(database)
        self.recovery = Recovery(database)
        self.removals = Removals(database)
        self.webhooks = Webhooks(database)
        self.sweeps = Sweeps(database)
        self.pipelines = Pipelines(database)
        self.schedules = Schedules(database)
        self.turns = Turns(database)
        """What the planner is told."""
        self.owners = Owners(database)

    @classmethod
    async def open(cls, path: Path) -> "Store":
        """Open or create the database and bring its schema up to date.

        Raises:
            StoreError: the file is not a database, or was written by a newer version.
        """
        return cls(await Database.open(path))

    async def close(self) -> None:
        await self._db.close()

    # --- jobs

    async def submit(self, job: Job, *, idempotency_key: str | None = None, request_digest: str = "") -> Job:
        """Keep a new job. With a key seen before, the job it made then is returned instead.

        Raises:
            QuotaExceeded: its owner may queue no further one.
            IdempotencyConflict: the key came with a different request before.
        """
        request: dict[str, object] = {"key": idempotency_key, "digest": request_digest, "job_id": str(job.id)}
        new = NewJob(job)

        def keep(session: Session) -> Job:
            if idempotency_key is not None:
                known = _known(session.one("submission", key=idempotency_key), request_digest)
                if known is not None:
                    return _found(session.one("job", id=known), known)
            new.write(session)
            if idempotency_key is not None:
                session.run("insert_submission", **request)
            faults.reach("submit_written")
            return job

        kept = await self._db.write(keep)
        faults.reach("submit_kept")
        return kept

    async def submitted(self, idempotency_key: str, request_digest: str) -> Job | None:
        """The job that a submit with this key made before.

        Raises:
            IdempotencyConflict: the key came with a different request then.
        """
        known = _known(await self._db.one("submission", key=idempotency_key), request_digest)
        return None if known is None else await self._job(UUID(known))

    async def job(self, job_id: UUID) -> Job:
        """Raises: NotFound."""
        return await self._job(job_id)

    async def jobs(
        self, wanted: JobFilter, *, limit: int, offset: int = 0, sort: Sort = NEWEST_FIRST, after: Cursor | None = None
    ) -> tuple[list[Job], int]:
        """A page of the jobs that match, and how many match in all.

        Raises:
            InvalidInput: ``after`` was given with an order that has no cursors.
        """
        where, values = wanted.where()
        page: dict[str, object] = {**values, "limit": limit, "offset": offset}
        clause = where
        if after is not None:
            clause = f"{where} AND {beyond(sort)}"
            page |= {"cursor_time": after.created_at, "cursor_id": str(after.job_id)}

        def read(session: Session) -> tuple[list[Job], int]:
            (count,) = session.matching("count_jobs", where, "", **values)
            found = session.matching("jobs", clause, order(sort), **page)
            return [rows.job(row) for row in found], count["n"]

        return await self._db.read(read)

    async def count_by_status(self) -> dict[JobStatus, int]:
        counts = dict.fromkeys(JobStatus, 0)
        return counts | {JobStatus(row["status"]): row["n"] for row in await self._db.all("count_by_status")}

    async def census(self, who: Principal = MACHINE) -> Census:
        """The queue and what runs, now, as far as it is within somebody's reach."""
        if who.scoped:
            return await self._db.read(partial(take_census_within, who=who, now=time.time()))
        return await self._db.read(partial(take_census, now=time.time()))

    async def answers(self) -> bool:
        """Whether the database can be read and has not been moved away."""
        try:
            await self._db.one("events_ever")
        except sqlite3.Error:
            return False
        return True

    async def tallies(self) -> Tallies:
        """What has happened since the database was made."""
        return await self._db.read(read_tallies)

    async def transition(
        self,
        job: Job,
        to: JobStatus,
        reason: str,
        *,
        intent: Intent | None = None,
        phase: str = "",
        retries: int | None = None,
    ) -> Job:
        """Move the job on from the status it was read with; ``retries`` in a row that it has had, if they change.

        Raises:
            StaleTransition: its status changed since.
            StateConflict: ``to`` may not follow its status.
        """
        async with self._db.transaction():
            await self._move(job.id, job.status, to, reason, intent=intent or job.intent, phase=phase, retries=retries)
            faults.reach("transition_written")
            moved = await self._job(job.id)
        faults.reach("transition_kept")
        return moved

    async def interrupt(self, job: Job, intent: Intent, reason: str, *, phase: str) -> Job:
        """Want an active job to end (cancel, or stop without the worker's help), whatever was wanted before.

        Raises:
            StaleTransition: its status changed since it was read.
        """
        if job.status is not JobStatus.STOPPING:
            return await self.transition(job, JobStatus.STOPPING, reason, intent=intent, phase=phase)
        return await self.want(job, intent, phase=phase)

    async def want(self, job: Job, intent: Intent, *, phase: str) -> Job:
        """Want something else of a job whose status already tells that it is about to end.

        Raises:
            StaleTransition: its status changed since it was read.
        """
        async with self._db.transaction():
            if not await self._db.run("set_intent", id=str(job.id), expected=job.status, intent=intent, phase=phase):
                raise StaleTransition
            return await self._job(job.id)

    async def update(self, job: Job, changed: Job) -> Job:
        """Give the job another name, other tags, another priority, other resources or another retry policy.

        Raises:
            StaleTransition: its status changed since it was read.
        """
        said = {
            name: value
            for name in ("name", "tags", "priority", "resources", "retry")
            if (value := getattr(changed, name)) != getattr(job, name)
        }
        if not said:
            return job
        async with self._db.transaction():
            written = await self._db.run(
                "update_job",
                id=str(job.id),
                expected=job.status,
                name=changed.name,
                priority=changed.priority,
                resources=changed.resources.model_dump_json(),
                retry=changed.retry.model_dump_json(exclude_defaults=True),
            )
            if not written:
                raise StaleTransition
            if "tags" in said:
                await self._db.run("delete_tags", job_id=str(job.id))
                for values in tag_values(changed):
                    await self._db.run("insert_tag", **values)
            await self._record(job.id, "job_updated", to_jsonable_python(said))
            return await self._job(job.id)

    async def set_phase(self, job_id: UUID, phase: str) -> None:
        """Say what an active job is doing; nothing if it is not active."""
        async with self._db.transaction():
            await self._db.run("set_phase", id=str(job_id), phase=phase)

    # --- attempts

    async def begin_attempt(
        self,
        job: Job,
        *,
        executor: str,
        gpus: Sequence[str],
        cpus: float,
        gpu_memory_mb: int | None = None,
        weight: float | None = None,
    ) -> Attempt:
        """Take the job from the queue: status, attempt and leases in one transaction.

        ``gpu_memory_mb`` of its one GPU are leased when given, else all of every GPU. ``weight`` is what a second of it
        counts as its owner's use.

        Raises:
            StaleTransition: it is no longer queued, or asks for something else than when it was read.
            StateConflict: a GPU is leased already.
        """
        async with self._db.transaction():
            if (await self._job(job.id)).resources != job.resources:
                raise StaleTransition
            await self._move(
                job.id, JobStatus.QUEUED, JobStatus.STARTING, "its turn came", intent="run", phase="starting"
            )
            counted = await self._db.one("count_attempt", id=str(job.id))
            assert counted is not None
            number = int(counted["attempts"])
            await self._db.run(
                "insert_attempt",
                job_id=str(job.id),
                number=number,
                executor=executor,
                gpus=json.dumps(list(gpus)),
                gpu_memory_mb=gpu_memory_mb,
                cpus=cpus,
                memory_mb=job.resources.memory_mb or 0,
                weight=weight,
                resume_from=job.resume_from,
                now=time.time(),
            )
            for gpu in gpus:
                try:
                    await self._db.run(
                        "insert_lease", gpu=gpu, job_id=str(job.id), attempt=number, memory_mb=gpu_memory_mb
                    )
                except sqlite3.IntegrityError as error:
                    raise StateConflict(f"GPU {gpu} is leased already") from error
            await self._record(job.id, "attempt_started", {"attempt": number, "gpus": list(gpus), "executor": executor})
            faults.reach("attempt_written")
            begun = await self._attempt(job.id, number)
        faults.reach("attempt_kept")
        return begun

    async def attempt(self, job_id: UUID, number: int) -> Attempt:
        """Raises: NotFound."""
        return await self._attempt(job_id, number)

    async def attempts(self, job_id: UUID) -> list[Attempt]:
        return [rows.attempt(row) for row in await self._db.all("attempts", job_id=str(job_id))]

    async def live_attempts(self) -> list[Attempt]:
        """Attempts whose container may still be there: what a restarted orchestrator re-attaches to."""
        return [rows.attempt(row) for row in await self._db.all("live_attempts")]

    async def live(self) -> list[tuple[Job, Attempt]]:
        """The live attempts with their jobs, in one go."""

        def read(session: Session) -> list[tuple[Job, Attempt]]:
            jobs = {row["id"]: rows.job(row) for row in session.all("live_jobs")}
            return [(jobs[row["job_id"]], rows.attempt(row)) for row in session.all("live_attempts")]

        return await self._db.read(read)

    async def leases(self) -> dict[str, list[UUID]]:
        """GPU UUID -> the jobs that hold it: one, or several that share it."""
        held: dict[str, list[UUID]] = {}
        for row in await self._db.all("leases"):
            held.setdefault(row["gpu"], []).append(UUID(row["job_id"]))
        return held

    async def attach(self, attempt: Attempt, handle: str) -> None:
        """Keep the executor's handle of a launched attempt."""
        async with self._db.transaction():
            await self._db.run(
                "attach", job_id=str(attempt.job_id), number=attempt.number, handle=handle, now=time.time()
            )
            faults.reach("attach_written")

    async def finish(self, attempt: Attempt, ended: Ended, *, seen_as: Job) -> Job:
        """Record how the attempt ended and settle its job. Repeating it changes nothing.

        Its leases stay until ``free``: a GPU is free only after the container is gone.

        Raises:
            StaleTransition: something else is wanted of the job than when it was ``seen_as``.
        """
        async with self._db.transaction():
            job = await self._job(attempt.job_id)
            if (job.status, job.intent) != (seen_as.status, seen_as.intent):
                raise StaleTransition
            changed = await self._db.run(
                "end_attempt",
                job_id=str(attempt.job_id),
                number=attempt.number,
                now=time.time(),
                exit_code=ended.exit_code,
                end_reason=ended.reason,
                detail=ended.failure.message if ended.failure else None,
            )
            if not changed:
                return job
            await self._db.run("expire_commands", job_id=str(job.id), attempt=attempt.number, now=time.time())
            await self._record(
                job.id,
                "attempt_ended",
                {
                    "attempt": attempt.number,
                    "end_reason": ended.reason,
                    "exit_code": ended.exit_code,
                    "detail": ended.failure.message if ended.failure else None,
                },
            )
            await self._move(
                job.id,
                job.status,
                ended.status,
                ended.note or (ended.failure.message if ended.failure else str(ended.reason)),
                intent=job.intent,
                phase="",
                failure=ended.failure,
                resume_from=ended.resume_from,
                retries=ended.retries,
                not_before=ended.not_before,
            )
            faults.reach("finish_written")
            return await self._job(job.id)

    async def free(self, attempt: Attempt, *, half_life_s: float = HALF_LIFE_S) -> None:
        """Give the attempt's GPUs back, and count what it used as its owner's. Call only once its container is gone.

        Repeating it changes nothing.
        """
        job_id, number = str(attempt.job_id), attempt.number

        def release(session: Session) -> None:
            if session.run("release", job_id=job_id, number=number, now=time.time()):
                charge(session, job_id, number, half_life_s)
            session.run("free_leases", job_id=job_id, attempt=number)
            faults.reach("free_written")

        await self._db.write(release)

    # --- events and what they say

    async def append_events(self, attempt: Attempt, events: Iterable[Event], offset: int) -> int:
        """Store what the worker reported up to byte ``offset``; events stored before are passed over.

        Returns how many were new.
        """
        reported = await asyncio.to_thread(Reported.of, attempt, events)
        ingested = await self._db.write(partial(reported.ingest, offset=offset))
        if ingested.unsealed >= SEAL_ROWS:
            await self.measurements.seal(attempt.job_id, "metrics")
        return ingested.new

    async def events(
        self,
        *,
        after: int,
        job_id: UUID | None,
        limit: int,
        who: Principal = MACHINE,
        kinds: Sequence[Kind] = (),
    ) -> list[StoredEvent]:
        """Events with an id above ``after``, in order: of one job, or of all within somebody's reach.

        Of all kinds when none is named.
        """
        wanted = json.dumps([(kind.type, kind.to) for kind in kinds]) if kinds else None
        if job_id is not None:
            found = await self._db.all("job_events", after=after, limit=limit, kinds=wanted, job_id=str(job_id))
        elif who.scoped:
            types = json.dumps(who.types)
            found = await self._db.all(
                "events_within", after=after, limit=limit, kinds=wanted, owner=who.owner, types=types
            )
        else:
            found = await self._db.all("events", after=after, limit=limit, kinds=wanted)
        return [
            StoredEvent(
                id=row["id"],
                job_id=UUID(row["job_id"]),
                attempt=row["attempt"],
                seq=row["seq"],
                ts=rows.moment(row["ts"]),
                type=row["type"],
                data=json.loads(row["data"]),
            )
            for row in found
        ]

    async def newest_event(self) -> int:
        """The id of the newest event of all; 0 when there is none."""
        row = await self._db.one("newest_event")
        return int(row["id"]) if row else 0

    async def note(self, job_id: UUID, type: str, data: Mapping[str, object]) -> None:
        """Keep an event of the orchestrator's own."""
        async with self._db.transaction():
            await self._record(job_id, type, data)

    async def thin_events(self, job_id: UUID, keep: int) -> int:
        """Forget all but the newest ``keep`` of a job's metrics, progress and message events; return how many went."""
        async with self._db.transaction():
            return await self._db.run("thin_events", job_id=str(job_id), keep=keep)

    async def finished(self, attempt: Attempt) -> Finished | None:
        """The worker's last word on this attempt, if it came."""
        row = await self._db.one("last_finished", job_id=str(attempt.job_id), attempt=attempt.number)
        if row is None:
            return None
        return Finished.model_validate({**json.loads(row["data"]), "ts": row["ts"], "seq": row["seq"]})

    async def checkpoints(self, job_id: UUID) -> list[Checkpoint]:
        """Newest attempt first, then highest step first."""
        return [rows.checkpoint(row) for row in await self._db.all("checkpoints", job_id=str(job_id))]

    async def artifacts(self, job_id: UUID) -> list[Artifact]:
        """Newest attempt first, then by path."""
        return [rows.artifact(row) for row in await self._db.all("artifacts", job_id=str(job_id))]

    async def saes(self, who: Principal = MACHINE) -> list[Artifact]:
        """Trained SAEs of all jobs within somebody's reach, newest first."""
        found = await (
            self._db.all("saes_within", owner=who.owner, types=json.dumps(who.types))
            if who.scoped
            else self._db.all("saes")
        )
        return [rows.artifact(row) for row in found]

    # --- commands

    async def request(
        self, job: Job, command: Command, *, to: JobStatus | None, reason: str, intent: Intent | None, phase: str
    ) -> Job:
        """Keep a command for the job's live attempt; with ``to``, move the job in the same transaction.

        Raises:
            StaleTransition: its status, or its attempt, is another one since it was read.
        """
        async with self._db.transaction():
            now = await self._job(job.id)
            if (now.status, now.attempts) != (job.status, job.attempts):
                # The command would be for an attempt that has ended: nobody would deliver it, and nobody settle it.
                raise StaleTransition
            await self._db.run(
                "insert_command",
                id=str(command.id),
                job_id=str(job.id),
                attempt=job.attempts,
                body=command.model_dump_json(),
                ts=command.ts,
            )
            await self._record(job.id, "command_requested", {"command_id": str(command.id), "command": command.type})
            if to is not None:
                await self._move(job.id, job.status, to, reason, intent=intent or job.intent, phase=phase)
            faults.reach("request_written")
            asked = await self._job(job.id)
        faults.reach("request_kept")
        return asked

    async def change_between(self, job: Job, command: Command, *, step: int, detail: str) -> Job:
        """Keep a change of parameters of a job that nothing runs of: its next attempt makes it after ``step`` steps.

        Raises:
            StaleTransition: its status, or its attempt, is another one since it was read.
        """
        async with self._db.transaction():
            now = await self._job(job.id)
            if (now.status, now.attempts) != (job.status, job.attempts):
                raise StaleTransition
            asked = {"id": str(command.id), "ts": command.ts}
            body = command.model_dump_json()
            await self._db.run("insert_command", job_id=str(job.id), attempt=job.attempts, body=body, **asked)
            await self._db.run("settle_command", status="applied", detail=detail, step=step, **asked)
            await self._record(
                job.id,
                "command_applied",
                {"command_id": str(command.id), "command": command.type, "detail": detail, "step": step},
            )
            return now

    async def commands(self, job_id: UUID) -> list[StoredCommand]:
        return [
            StoredCommand(
                id=UUID(row["id"]),
                type=json.loads(row["body"])["type"],
                attempt=row["attempt"],
                requested_at=rows.moment(row["requested_at"]),
                status=row["status"],
                settled_at=rows.moment_or_none(row["settled_at"]),
                detail=row["detail"],
                body=row["body"],
                step=row["step"],
            )
            for row in await self._db.all("commands", job_id=str(job_id))
        ]

    # --- inside a transaction

    async def _move(
        self,
        job_id: UUID,
        expected: JobStatus,
        to: JobStatus,
        reason: str,
        *,
        intent: Intent,
        phase: str,
        failure: JobFailure | None = None,
        resume_from: str | None = None,
        retries: int | None = None,
        not_before: datetime | None = None,
    ) -> None:
        if to not in TRANSITIONS[expected]:
            raise StateConflict(f"a job that is {expected} cannot become {to}")
        changed = await self._db.run(
            "set_status",
            id=str(job_id),
            expected=expected,
            to=to,
            intent=intent,
            phase=phase,
            now=time.time(),
            terminal=to in TERMINAL,
            failure=rows.failure_json(failure),
            resume_from=resume_from,
            retries=retries,
            not_before=not_before.timestamp() if not_before else None,
        )
        if not changed:
            raise StaleTransition
        await self._record(job_id, "status_changed", {"from": expected, "to": to, "reason": reason})

    async def _record(self, job_id: UUID, type: str, data: Mapping[str, object]) -> None:
        await self._db.run("insert_event", **own_event(job_id, type, data))

    async def _job(self, job_id: UUID) -> Job:
        return _found(await self._db.one("job", id=str(job_id)), job_id)

    async def _attempt(self, job_id: UUID, number: int) -> Attempt:
        row = await self._db.one("attempt", job_id=str(job_id), number=number)
        if row is None:
            raise NotFound(f"job {job_id} has no attempt {number}", field="attempt")
        return rows.attempt(row)


def _known(submission: sqlite3.Row | None, digest: str) -> str | None:
    """The id of the job that an earlier submit made. Raises: IdempotencyConflict."""
    if submission is None:
        return None
    if submission["request_digest"] != digest:
        raise IdempotencyConflict(field="Idempotency-Key", suggestion="use a new key for a new request")
    job_id: str = submission["job_id"]
    return job_id


def _found(row: sqlite3.Row | None, job_id: UUID | str) -> Job:
    """Raises: NotFound."""
    if row is None:
        raise NotFound(f"there is no job {job_id}", field="id", suggestion="GET /api/jobs lists the jobs there are")
    return rows.job(row)
