"""What decides whose turn it is: the queue and how it changes, what live attempts hold, and how long jobs ran."""

import json
import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from uuid import UUID

from orchestrator.domain import Queued, Resources, Shape
from orchestrator.store.database import Database, Session
from orchestrator.store.records import Holding, QueueChanges
from orchestrator.usage import weight

SHAPES_KEPT = 16_384
"""Different requests for resources that are parsed once."""


class Turns:
    """Reads what the planner is told. It follows the jobs' own events, so whoever changed a job need not say so."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def queue(self) -> QueueChanges:
        """All of the queue."""
        return await self._db.read(_queue)

    async def changes(self, after: int) -> QueueChanges:
        """What happened to the queue since the event ``after``."""
        return await self._db.read(lambda session: _changes(session, after))

    async def holdings(self) -> list[Holding]:
        """What the attempts hold whose container may still be there, the oldest first."""
        return [_holding(row) for row in await self._db.all("holdings")]

    async def durations(self, most: int) -> list[tuple[str, str, float]]:
        """(type, owner, seconds) of the jobs that completed last."""
        found = await self._db.all("durations", limit=most)
        return [(row["type"], row["owner"], row["ran_s"]) for row in found if row["ran_s"] is not None]


def _queue(session: Session) -> QueueChanges:
    last = session.one("newest_event")
    assert last is not None
    jobs = [_queued(row) for row in session.all("queue")]
    return QueueChanges(jobs, (), len(jobs), last["id"])


def _changes(session: Session, after: int) -> QueueChanges:
    length = session.one("queue_length")
    assert length is not None
    events = session.all("queue_events", after=after)
    if not events:
        return QueueChanges((), (), length["n"], after)
    touched = {row["job_id"] for row in events}
    found = session.all("queued_of", ids=json.dumps(sorted(touched)))
    gone = touched - {row["id"] for row in found}
    return QueueChanges(
        [_queued(row) for row in found],
        [UUID(job_id) for job_id in gone],
        length["n"],
        max(row["id"] for row in events),
    )


def _queued(row: Sequence[object]) -> Queued:
    # By place: a hundred thousand of them are read at a start.
    job_id, owner, priority, created_at, job_type, resources, not_before, sweep = row
    shape, belongs_to = _shape(job_type, resources), _sweep(sweep)
    return Queued(UUID(job_id), owner, priority, created_at, shape, not_before, belongs_to)  # type: ignore[arg-type]


@lru_cache(SHAPES_KEPT)
def _sweep(name: str | None) -> UUID | None:
    return UUID(name) if name else None


@lru_cache(SHAPES_KEPT)
def _shape(job_type: str, resources: str) -> Shape:
    return Shape(job_type, Resources.model_validate_json(resources))


def _holding(row: sqlite3.Row) -> Holding:
    gpus = tuple(json.loads(row["gpus"]))
    eta_s = row["eta_s"]
    return Holding(
        job_id=UUID(row["job_id"]),
        owner=row["owner"],
        sweep=_sweep(row["sweep"]),
        priority=row["priority"],
        type=row["type"],
        status=row["status"],
        intent=row["intent"],
        cpus=row["cpus"],
        memory_mb=row["memory_mb"],
        gpus=gpus,
        gpu_memory_mb=row["gpu_memory_mb"],
        peak_gpu_memory_mb=row["peak_gpu_memory_mb"],
        weight=weight(row["cpus"], len(gpus)) if row["weight"] is None else row["weight"],
        since=row["created_at"],
        saved_at=row["saved_at"],
        ended=row["ended_at"] is not None,
        timeout_s=row["timeout_s"],
        eta_s=float(eta_s) if isinstance(eta_s, int | float) else None,
    )
