"""How a new job is written."""

import json
import time
from collections.abc import Mapping
from uuid import UUID

from orchestrator.domain import Job
from orchestrator.store import rows
from orchestrator.store.database import Session


def insert_job(session: Session, job: Job) -> None:
    """Write a new job with its tags and its first event."""
    session.run("insert_job", **rows.job_values(job))
    if job.tags:
        session.run_each("insert_tag", tag_values(job))
    said = {"type": job.type, "name": job.name, "status": job.status}
    session.run("insert_event", **own_event(job.id, "job_created", said))


def tag_values(job: Job) -> list[dict[str, object]]:
    """The rows of its tags."""
    return [{"job_id": str(job.id), "tag": tag, "place": place} for place, tag in enumerate(job.tags)]


def own_event(job_id: UUID, type: str, data: Mapping[str, object]) -> dict[str, object]:
    """The row of an event that is the orchestrator's own, now."""
    return {
        "job_id": str(job_id),
        "attempt": None,
        "seq": None,
        "ts": time.time(),
        "type": type,
        "data": json.dumps(data),
    }
