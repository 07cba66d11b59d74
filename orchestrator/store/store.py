"""One writer, one reader: every change is one short transaction, durable before the call returns.

Journal mode is WAL with ``synchronous=FULL``, so a change that was answered survives a power cut. Changes of a job's
status are compare-and-set against ``TRANSITIONS``; nothing follows a terminal status.
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import aiosqlite

from orchestrator.domain import (
    TERMINAL,
    TRANSITIONS,
    Artifact,
    Attempt,
    Checkpoint,
    EndReason,
    Intent,
    Job,
    JobFailure,
    JobStatus,
)
from orchestrator.errors import IdempotencyConflict, NotFound, OrchestratorError, StaleTransition, StateConflict
from orchestrator.store import rows
from orchestrator.store.statements import migrations, statements
from worker_image.contract.commands import Command
from worker_image.contract.events import (
    ArtifactSaved,
    CheckpointRemoved,
    CheckpointSaved,
    CommandApplied,
    CommandRejected,
    Event,
    Finished,
    Metrics,
    Progress,
)

MAX_STEP = 2**62


class StoreError(OrchestratorError):
    """The database cannot be used."""

    code = "store_error"


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; empty fields match all."""

    status: tuple[str, ...] = ()
    type: str | None = None
    owner: str | None = None
    tag: str | None = None
    model: str | None = None
    dataset: str | None = None
    q: str | None = None
    """Part of a name or the beginning of an id."""

    def where(self) -> tuple[str, dict[str, str]]:
        """A clause made of fixed texts, and the values bound to it."""
        clauses, values = ["1"], dict[str, str]()
        if self.status:
            names = [f"status{place}" for place in range(len(self.status))]
            clauses.append(f"status IN ({', '.join(':' + name for name in names)})")
            values |= dict(zip(names, self.status, strict=True))
        for column, value in (
            ("type", self.type),
            ("owner", self.owner),
            ("model", self.model),
            ("dataset", self.dataset),
        ):
            if value is not None:
                clauses.append(f"{column} = :{column}")
                values[column] = value
        if self.tag is not None:
            clauses.append("id IN (SELECT job_id FROM job_tags WHERE tag = :tag)")
            values["tag"] = self.tag
        if self.q is not None:
            clauses.append(r"(name LIKE :part ESCAPE '\' OR id LIKE :start ESCAPE '\')")
            literal = self.q.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
            values |= {"part": f"%{literal}%", "start": f"{literal}%"}
        return " AND ".join(clauses), values


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its place among all events; attempt and seq are empty for the orchestrator's own."""

    id: int
    job_id: UUID
    attempt: int | None
    seq: int | None
    ts: datetime
    type: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredCommand:
    """A command as requested, and what became of it."""

    id: UUID
    type: str
    attempt: int
    requested_at: datetime
    status: str
    settled_at: datetime | None
    detail: str
    body: str
    """The line of ``commands.jsonl``."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended."""

    reason: EndReason
    status: JobStatus
    exit_code: int | None = None
    failure: JobFailure | None = None
    resume_from: str | None = None
    """Checkpoint a later attempt continues from."""


class Store:
    """All that is kept about jobs. Open one per database file and process."""

    def __init__(self, writer: aiosqlite.Connection, reader: aiosqlite.Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._writing = asyncio.Lock()
        self._sql = statements()

    @classmethod
    async def open(cls, path: Path) -> "Store":
        """Open or create the database and bring its schema up to date.

        Raises:
            StoreError: the file is not a database, or was written by a newer version.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = await _connect(path)
        try:
            await _migrate(writer, path)
            reader = await _connect(path)
        except BaseException:
            await writer.close()
            raise
        return cls(writer, reader)

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()

    # --- jobs

    async def submit(self, job: Job, *, idempotency_key: str | None = None, request_digest: str = "") -> Job:
        """Keep a new job. With a key seen before, the job it made then is returned instead.

        Raises:
            IdempotencyConflict: the key came with a different request before.
        """
        async with self._transaction():
            if idempotency_key is not None:
                known = await self._one(self._writer, "submission", key=idempotency_key)
                if known is not None:
                    if known["request_digest"] != request_digest:
                        raise IdempotencyConflict(field="Idempotency-Key", suggestion="use a new key for a new request")
                    return await self._job(self._writer, UUID(known["job_id"]))
            await self._run(
                "insert_job",
                id=str(job.id),
                type=job.type,
                name=job.name,
                owner=job.owner,
                priority=job.priority,
                params=job.params.model_dump_json(),
                inputs=None if job.inputs is None else json.dumps(job.inputs),
                resources=job.resources.model_dump_json(),
                created_at=job.created_at.timestamp(),
                restarted_from=str(job.restarted_from) if job.restarted_from else None,
                resume_from=job.resume_from,
            )
            for place, tag in enumerate(job.tags):
                await self._run("insert_tag", job_id=str(job.id), tag=tag, place=place)
            if idempotency_key is not None:
                await self._run("insert_submission", key=idempotency_key, digest=request_digest, job_id=str(job.id))
            await self._record(job.id, "job_created", {"type": job.type, "name": job.name, "status": job.status})
            return await self._job(self._writer, job.id)

    async def job(self, job_id: UUID) -> Job:
        """Raises: NotFound."""
        return await self._job(self._reader, job_id)

    async def jobs(self, wanted: JobFilter, *, limit: int, offset: int = 0) -> tuple[list[Job], int]:
        """Jobs that match, newest first, and how many there are in all."""
        where, values = wanted.where()
        count = await self._reader.execute_fetchall(self._sql["count_jobs"].format(where=where), values)
        found = await self._reader.execute_fetchall(
            self._sql["jobs"].format(where=where), {**values, "limit": limit, "offset": offset}
        )
        return [rows.job(row) for row in found], next(iter(count))["n"]

    async def queue(self) -> list[Job]:
        """Queued jobs: higher priority first, then older first."""
        return [rows.job(row) for row in await self._all("queue")]

    async def active(self) -> list[Job]:
        """Jobs with a live attempt."""
        return [rows.job(row) for row in await self._all("active_jobs")]

    async def count_by_status(self) -> dict[JobStatus, int]:
        counts = dict.fromkeys(JobStatus, 0)
        return counts | {JobStatus(row["status"]): row["n"] for row in await self._all("count_by_status")}

    async def transition(
        self,
        job: Job,
        to: JobStatus,
        reason: str,
        *,
        intent: Intent | None = None,
        phase: str = "",
    ) -> Job:
        """Move the job on from the status it was read with.

        Raises:
            StaleTransition: its status changed since.
            StateConflict: ``to`` may not follow its status.
        """
        async with self._transaction():
            await self._move(job.id, job.status, to, reason, intent=intent or job.intent, phase=phase)
            return await self._job(self._writer, job.id)

    async def interrupt(self, job: Job, intent: Intent, reason: str, *, phase: str) -> Job:
        """Want an active job to end (cancel, or stop without the worker's help), whatever was wanted before.

        Raises:
            StaleTransition: its status changed since it was read.
        """
        if job.status is not JobStatus.STOPPING:
            return await self.transition(job, JobStatus.STOPPING, reason, intent=intent, phase=phase)
        async with self._transaction():
            if not await self._run("set_intent", id=str(job.id), intent=intent, phase=phase):
                raise StaleTransition
            return await self._job(self._writer, job.id)

    async def set_phase(self, job_id: UUID, phase: str) -> None:
        """Say what an active job is doing; nothing if it is not active."""
        async with self._transaction():
            await self._run("set_phase", id=str(job_id), phase=phase)

    async def check_purgeable(self, job_id: UUID) -> None:
        """Raise unless the job ended and nothing continues from it.

        Raises:
            NotFound: there is no such job.
            StateConflict: it has not ended, still holds a GPU, or a live job continues from its checkpoint.
        """
        job = await self._job(self._writer, job_id)
        if job.status not in TERMINAL:
            raise StateConflict(f"the job is {job.status}", suggestion="cancel it first")
        if job_id in (await self.leases()).values():
            raise StateConflict("its container is being removed", suggestion="try again in a moment")
        heir = await self._one(self._writer, "continued_by", id=str(job_id))
        if heir is not None:
            raise StateConflict(
                f"job {heir['id']} continues from its checkpoint", suggestion="wait until that one has ended"
            )

    async def purge(self, job_id: UUID) -> None:
        """Forget an ended job and all that belongs to it. Raises like ``check_purgeable``."""
        async with self._transaction():
            await self.check_purgeable(job_id)
            await self._run("purge", id=str(job_id))

    # --- attempts

    async def begin_attempt(self, job: Job, *, executor: str, gpus: Sequence[str], cpus: float) -> Attempt:
        """Take the job from the queue: status, attempt and leases in one transaction.

        Raises:
            StaleTransition: it is no longer queued.
            StateConflict: a GPU is leased already.
        """
        async with self._transaction():
            await self._move(
                job.id, JobStatus.QUEUED, JobStatus.STARTING, "its turn came", intent="run", phase="starting"
            )
            counted = await self._one(self._writer, "count_attempt", id=str(job.id))
            assert counted is not None
            number = int(counted["attempts"])
            await self._run(
                "insert_attempt",
                job_id=str(job.id),
                number=number,
                executor=executor,
                gpus=json.dumps(list(gpus)),
                cpus=cpus,
                resume_from=job.resume_from,
                now=time.time(),
            )
            for gpu in gpus:
                try:
                    await self._run("insert_lease", gpu=gpu, job_id=str(job.id), attempt=number)
                except sqlite3.IntegrityError as error:
                    raise StateConflict(f"GPU {gpu} is leased already") from error
            await self._record(job.id, "attempt_started", {"attempt": number, "gpus": list(gpus), "executor": executor})
            return await self._attempt(self._writer, job.id, number)

    async def attempt(self, job_id: UUID, number: int) -> Attempt:
        """Raises: NotFound."""
        return await self._attempt(self._reader, job_id, number)

    async def attempts(self, job_id: UUID) -> list[Attempt]:
        return [rows.attempt(row) for row in await self._all("attempts", job_id=str(job_id))]

    async def live_attempts(self) -> list[Attempt]:
        """Attempts that have not ended or still hold leases: what a restarted orchestrator re-attaches to."""
        return [rows.attempt(row) for row in await self._all("live_attempts")]

    async def leases(self) -> dict[str, UUID]:
        """GPU UUID -> the job that holds it."""
        return {row["gpu"]: UUID(row["job_id"]) for row in await self._all("leases")}

    async def attach(self, attempt: Attempt, handle: str) -> None:
        """Keep the executor's handle of a launched attempt."""
        async with self._transaction():
            await self._run("attach", job_id=str(attempt.job_id), number=attempt.number, handle=handle, now=time.time())

    async def finish(self, attempt: Attempt, ended: Ended) -> Job:
        """Record how the attempt ended and settle its job. Repeating it changes nothing.

        Its leases stay until ``free``: a GPU is free only after the container is gone.
        """
        async with self._transaction():
            job = await self._job(self._writer, attempt.job_id)
            changed = await self._run(
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
            await self._run("expire_commands", job_id=str(job.id), attempt=attempt.number, now=time.time())
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
                ended.failure.message if ended.failure else str(ended.reason),
                intent=job.intent,
                phase="",
                failure=ended.failure,
                resume_from=ended.resume_from,
            )
            return await self._job(self._writer, job.id)

    async def free(self, attempt: Attempt) -> None:
        """Give the attempt's GPUs back. Call only once its container is gone."""
        async with self._transaction():
            await self._run("free_leases", job_id=str(attempt.job_id), attempt=attempt.number)

    # --- events and what they say

    async def append_events(self, attempt: Attempt, events: Iterable[Event], offset: int) -> int:
        """Store what the worker reported up to byte ``offset``; events stored before are passed over.

        Returns how many were new.
        """
        new = 0
        async with self._transaction():
            for item in events:
                new += await self._ingest(attempt, item)
            await self._run("advance", job_id=str(attempt.job_id), number=attempt.number, offset=offset)
        return new

    async def events(self, *, after: int, job_id: UUID | None, limit: int) -> list[StoredEvent]:
        """Events with an id above ``after``, in order."""
        found = await (
            self._all("events", after=after, limit=limit)
            if job_id is None
            else self._all("job_events", after=after, limit=limit, job_id=str(job_id))
        )
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

    async def finished(self, attempt: Attempt) -> Finished | None:
        """The worker's last word on this attempt, if it came."""
        row = await self._one(self._writer, "last_finished", job_id=str(attempt.job_id), attempt=attempt.number)
        if row is None:
            return None
        return Finished.model_validate({**json.loads(row["data"]), "ts": row["ts"], "seq": row["seq"]})

    async def metrics(
        self, job_id: UUID, *, start: int = 0, end: int = MAX_STEP, interval: int = 1
    ) -> list[tuple[int, datetime, dict[str, float]]]:
        """(step, time, values) for the steps in [start, end] that ``interval`` divides."""
        found = await self._all("metrics", job_id=str(job_id), start=start, end=end, interval=interval)
        return [(row["step"], rows.moment(row["ts"]), json.loads(row["vals"])) for row in found]

    async def checkpoints(self, job_id: UUID) -> list[Checkpoint]:
        """Newest attempt first, then highest step first."""
        return [rows.checkpoint(row) for row in await self._all("checkpoints", job_id=str(job_id))]

    async def artifacts(self, job_id: UUID) -> list[Artifact]:
        """Newest attempt first, then by path."""
        return [rows.artifact(row) for row in await self._all("artifacts", job_id=str(job_id))]

    async def saes(self) -> list[Artifact]:
        """Trained SAEs of all jobs, newest first."""
        return [rows.artifact(row) for row in await self._all("saes")]

    # --- commands

    async def request(
        self, job: Job, command: Command, *, to: JobStatus | None, reason: str, intent: Intent | None, phase: str
    ) -> Job:
        """Keep a command for the job's live attempt; with ``to``, move the job in the same transaction."""
        async with self._transaction():
            await self._run(
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
            return await self._job(self._writer, job.id)

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
            )
            for row in await self._all("commands", job_id=str(job_id))
        ]

    # --- inside a transaction

    async def _ingest(self, attempt: Attempt, event: Event) -> bool:
        job_id, number = str(attempt.job_id), attempt.number
        data = event.model_dump(mode="json", exclude={"seq", "ts", "type"})
        stored = await self._one(
            self._writer,
            "insert_event",
            job_id=job_id,
            attempt=number,
            seq=event.seq,
            ts=event.ts,
            type=event.type,
            data=json.dumps(data),
        )
        if stored is None:
            return False
        if isinstance(event, Metrics | Progress | Finished):
            await self._remember_latest(job_id, event)
        else:
            await self._derive(job_id, number, event, data)
        return True

    async def _remember_latest(self, job_id: str, event: Metrics | Progress | Finished) -> None:
        """Keep the newest figures with the job, so that a list of jobs is one query."""
        latest: dict[str, str | None] = dict.fromkeys(("progress", "metrics", "results", "phase"))
        match event:
            case Metrics():
                values = json.dumps(event.values)
                await self._run("put_metrics", job_id=job_id, step=event.step, ts=event.ts, vals=values)
                latest["metrics"] = json.dumps({**event.values, "step": event.step})
            case Progress():
                latest["progress"] = event.model_dump_json(exclude={"seq", "ts", "type"})
                latest["phase"] = event.phase
            case Finished():
                latest["results"] = json.dumps(event.results) if event.results else None
        await self._run("latest", id=job_id, **latest)

    async def _derive(self, job_id: str, number: int, event: Event, data: dict[str, Any]) -> None:
        """Keep the rows that checkpoints, artifacts and acknowledgements stand for."""
        match event:
            case CheckpointSaved():
                await self._run("put_checkpoint", job_id=job_id, attempt=number, ts=event.ts, **data)
            case CheckpointRemoved():
                await self._run("delete_checkpoint", job_id=job_id, attempt=number, name=event.name)
            case ArtifactSaved():
                await self._run("put_artifact", job_id=job_id, attempt=number, ts=event.ts, **data)
            case CommandApplied():
                await self._settle(event.command_id, "applied", event.ts, event.detail)
            case CommandRejected():
                await self._settle(event.command_id, "rejected", event.ts, event.reason)
            case _:
                pass

    async def _settle(self, command_id: UUID, status: str, ts: float, detail: str) -> None:
        await self._run("settle_command", id=str(command_id), status=status, ts=ts, detail=detail)

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
    ) -> None:
        if to not in TRANSITIONS[expected]:
            raise StateConflict(f"a job that is {expected} cannot become {to}")
        changed = await self._run(
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
        )
        if not changed:
            raise StaleTransition
        await self._record(job_id, "status_changed", {"from": expected, "to": to, "reason": reason})

    async def _record(self, job_id: UUID, type: str, data: Mapping[str, object]) -> None:
        await self._run(
            "insert_event", job_id=str(job_id), attempt=None, seq=None, ts=time.time(), type=type, data=json.dumps(data)
        )

    async def _job(self, connection: aiosqlite.Connection, job_id: UUID) -> Job:
        row = await self._one(connection, "job", id=str(job_id))
        if row is None:
            raise NotFound(f"there is no job {job_id}", field="id", suggestion="GET /api/jobs lists the jobs there are")
        return rows.job(row)

    async def _attempt(self, connection: aiosqlite.Connection, job_id: UUID, number: int) -> Attempt:
        row = await self._one(connection, "attempt", job_id=str(job_id), number=number)
        if row is None:
            raise NotFound(f"job {job_id} has no attempt {number}", field="attempt")
        return rows.attempt(row)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        async with self._writing:
            await self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                await self._writer.execute("ROLLBACK")
                raise
            await self._writer.execute("COMMIT")

    async def _run(self, name: str, /, **values: object) -> int:
        async with self._writer.execute(self._sql[name], values) as cursor:
            return cursor.rowcount

    async def _one(self, connection: aiosqlite.Connection, name: str, /, **values: object) -> sqlite3.Row | None:
        async with connection.execute(self._sql[name], values) as cursor:
            return await cursor.fetchone()

    async def _all(self, name: str, /, **values: object) -> list[sqlite3.Row]:
        return list(await self._reader.execute_fetchall(self._sql[name], values))


async def _connect(path: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
            await connection.execute(f"PRAGMA {pragma}")
    except sqlite3.DatabaseError as error:
        await connection.close()
        raise StoreError(
            f"{path} cannot be opened: {error}", suggestion="move the file away, or restore it from a backup"
        ) from error
    return connection


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
    """Run the migrations the file has not seen, each in a transaction with its version."""
    async with connection.execute("PRAGMA user_version") as cursor:
        row = await cursor.fetchone()
    version = row[0] if row else 0
    scripts = migrations()
    if version > len(scripts):
        raise StoreError(
            f"{path} has schema version {version}, this saeforge knows {len(scripts)}",
            suggestion="install the saeforge that wrote it, or a newer one",
        )
    for number, script in enumerate(scripts[version:], start=version + 1):
        await connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
