"""Jobs and checkpoints on their way out: marked before the first file goes, forgotten once the last has.

From its mark on nobody begins to read what goes, and a mark is set only where nobody reads: both in transactions, so
one of the two comes first. What a crash leaves marked, the next orchestrator finishes.
"""

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from orchestrator import faults
from orchestrator.domain import TERMINAL, Checkpoint, Job, JobStatus
from orchestrator.errors import ContainerLeft, NotFound, StateConflict
from orchestrator.store import rows
from orchestrator.store.database import Database, Session
from orchestrator.store.jobs import own_event
from orchestrator.store.webhooks import keep_untold

_NAMED = 3
"""Most jobs that a refusal names."""


class Removals:
    """The part of the store about what is deleted."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def begin_purge(self, job_id: UUID) -> None:
        """Mark a job, that no other may begin to read its files; nothing if it is marked.

        Raises:
            NotFound: there is no such job.
            ContainerLeft: it has ended, and its container is still to be removed.
            StateConflict: it has not ended, or somebody reads its files or is about to.
        """

        def mark(session: Session) -> None:
            _require_purgeable(session, job_id)
            session.run("mark_purging", id=str(job_id), now=time.time())

        await self._db.write(mark)

    async def purge(self, job_id: UUID) -> None:
        """Forget an ended job and all that belongs to it but what webhooks are still to be told.

        Raises like ``begin_purge``.
        """

        def forget(session: Session) -> None:
            _require_purgeable(session, job_id)
            keep_untold(session, job_id)
            session.run("purge", id=str(job_id))
            faults.reach("purge_written")

        await self._db.write(forget)
        faults.reach("purge_kept")

    async def purging(self) -> list[UUID]:
        """Jobs whose purge has begun."""
        return [UUID(row["id"]) for row in await self._db.all("jobs_being_purged")]

    async def begin_checkpoint(self, checkpoint: Checkpoint, path: Path, *, seen_as: Job | None = None) -> None:
        """Mark a checkpoint, that nobody may begin to continue from it.

        Raises:
            StateConflict: the job's status is another than when it was ``seen_as``, or somebody reads the checkpoint.
        """
        job_id = checkpoint.job_id

        def mark(session: Session) -> None:
            row = session.one("purging", id=str(job_id))
            if row is None or row["purging_at"] is not None or (seen_as and row["status"] != seen_as.status):
                raise StateConflict("the job has changed meanwhile", suggestion="look at it again")
            readers = [heir["id"] for heir in session.all("continuing_from", path=str(path))]
            readers += [row["job_id"] for row in _readers(session, job_id) if _lies_in(row["path"], str(path))]
            if readers := list(dict.fromkeys(readers)):
                raise StateConflict(
                    f"{_named(readers)} from {checkpoint.name}",
                    suggestion="wait until it has ended, or cancel it",
                )
            _mark(session, [checkpoint])

        await self._db.write(mark)
        faults.reach("checkpoint_marked")

    async def begin_archive(self, job_id: UUID, checkpoints: Sequence[Checkpoint]) -> bool:
        """Mark what archiving a job removes; whether it may: nobody reads its files, or deletes them already."""

        def mark(session: Session) -> bool:
            try:
                _require_purgeable(session, job_id)
            except (NotFound, StateConflict):
                return False
            row = session.one("purging", id=str(job_id))
            if row is None or row["purging_at"] is not None:
                return False
            _mark(session, checkpoints)
            return True

        return await self._db.write(mark)

    async def deleting(self) -> list[Checkpoint]:
        """Checkpoints whose deletion has begun."""
        return [rows.checkpoint(row) for row in await self._db.all("checkpoints_being_deleted")]

    async def deleting_of(self, job_id: UUID) -> list[Checkpoint]:
        """Those of one job."""
        return [checkpoint for checkpoint in await self.deleting() if checkpoint.job_id == job_id]

    async def forget_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Its directory is gone."""
        said = {"name": checkpoint.name, "attempt": checkpoint.attempt}

        def forget(session: Session) -> None:
            if session.run("delete_checkpoint", job_id=str(checkpoint.job_id), **said):
                session.run("insert_event", **own_event(checkpoint.job_id, "checkpoint_deleted", said))

        await self._db.write(forget)
        faults.reach("checkpoint_forgotten")


def _require_purgeable(session: Session, job_id: UUID) -> None:
    row = session.one("purging", id=str(job_id))
    if row is None:
        raise NotFound(f"there is no job {job_id}", field="id", suggestion="GET /api/jobs lists the jobs there are")
    if (status := JobStatus(row["status"])) not in TERMINAL:
        raise StateConflict(f"the job is {status}", suggestion="cancel it first")
    if session.one("unreleased", id=str(job_id)) is not None:
        raise ContainerLeft(suggestion="try again in a moment")
    if readers := list(dict.fromkeys(row["job_id"] for row in _readers(session, job_id))):
        raise StateConflict(
            f"{_named(readers)} from its checkpoint or reads what it left",
            suggestion="wait until they have ended, or cancel them",
        )
    if (waiting := session.one("pipeline_waiting_for", id=str(job_id))) is not None:
        raise StateConflict(
            f"step {waiting['name']!r} of pipeline {waiting['pipeline']} waits for what it left",
            suggestion="wait until the pipeline has ended, or cancel it",
        )


def _readers(session: Session, job_id: UUID) -> list[sqlite3.Row]:
    return session.all("readers_of", source=str(job_id))


def _named(readers: Sequence[str]) -> str:
    more = f" and {len(readers) - _NAMED} more" if len(readers) > _NAMED else ""
    several = len(readers) > 1
    return f"job{'s' if several else ''} {', '.join(readers[:_NAMED])}{more} continue{'' if several else 's'}"


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _mark(session: Session, checkpoints: Sequence[Checkpoint]) -> None:
    for item in checkpoints:
        session.run("mark_checkpoint", job_id=str(item.job_id), attempt=item.attempt, name=item.name, now=time.time())
