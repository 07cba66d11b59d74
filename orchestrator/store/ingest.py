"""From a worker's event to rows: the event itself, and the figures, checkpoints and answers it stands for."""

import json
from typing import Any
from uuid import UUID

from orchestrator.domain import Attempt
from orchestrator.store.database import Database
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


async def ingest(db: Database, attempt: Attempt, event: Event) -> bool:
    """Store one event and what follows from it, inside a transaction; whether it was new."""
    job_id, number = str(attempt.job_id), attempt.number
    data = event.model_dump(mode="json", exclude={"seq", "ts", "type"})
    stored = await db.one(
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
        await _remember_latest(db, job_id, event)
    else:
        await _derive(db, job_id, number, event, data)
    return True


async def _remember_latest(db: Database, job_id: str, event: Metrics | Progress | Finished) -> None:
    """Keep the newest figures with the job, so that a list of jobs is one query."""
    latest: dict[str, str | None] = dict.fromkeys(("progress", "metrics", "results", "phase"))
    match event:
        case Metrics():
            values = json.dumps(event.values)
            await db.run("put_metrics", job_id=job_id, step=event.step, ts=event.ts, vals=values)
            latest["metrics"] = json.dumps({**event.values, "step": event.step})
        case Progress():
            latest["progress"] = event.model_dump_json(exclude={"seq", "ts", "type"})
            latest["phase"] = event.phase
        case Finished():
            latest["results"] = json.dumps(event.results) if event.results else None
    await db.run("latest", id=job_id, **latest)


async def _derive(db: Database, job_id: str, number: int, event: Event, data: dict[str, Any]) -> None:
    """Keep the rows that checkpoints, artifacts and acknowledgements stand for."""
    match event:
        case CheckpointSaved():
            await db.run("put_checkpoint", job_id=job_id, attempt=number, ts=event.ts, **data)
        case CheckpointRemoved():
            await db.run("delete_checkpoint", job_id=job_id, attempt=number, name=event.name)
        case ArtifactSaved():
            await db.run("put_artifact", job_id=job_id, attempt=number, ts=event.ts, **data)
        case CommandApplied():
            await _settle(db, event.command_id, "applied", event.ts, event.detail)
        case CommandRejected():
            await _settle(db, event.command_id, "rejected", event.ts, event.reason)
        case _:
            pass


async def _settle(db: Database, command_id: UUID, status: str, ts: float, detail: str) -> None:
    await db.run("settle_command", id=str(command_id), status=status, ts=ts, detail=detail)
