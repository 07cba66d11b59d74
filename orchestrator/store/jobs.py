"""How a new job is written."""

import json
import time
from collections.abc import Mapping
from uuid import UUID

from orchestrator.access import actor
from orchestrator.domain import Job
from orchestrator.store import rows
from orchestrator.store.database import Session
from orchestrator.store.owners import check_room_in_queue
from orchestrator.store.sources import Needs, keep_sources


class NewJob:
    """The rows of a job to be, made on behalf of whoever asks for it; another thread may write them."""

    def __init__(self, job: Job) -> None:
        self._id, self._owner = job.id, job.owner
        self._job = rows.job_values(job)
        self._tags = tag_values(job)
        self._needs = Needs.of(job)
        said = {"type": job.type, "name": job.name, "status": job.status}
        self._created = own_event(job.id, "job_created", said)

    def write(self, session: Session) -> None:
        """The job with its tags and its first event.

        Raises:
            QuotaExceeded: its owner may queue no further one.
            StateConflict: what it is to read or to continue from is being deleted, or was meanwhile.
        """
        check_room_in_queue(session, self._owner)
        self._needs.require(session)
        session.run("insert_job", **self._job)
        keep_sources(session, self._id, self._needs.sources)
        if self._tags:
            session.run_each("insert_tag", self._tags)
        session.run("insert_event", **self._created)


def tag_values(job: Job) -> list[dict[str, object]]:
    """The rows of its tags."""
    return [{"job_id": str(job.id), "tag": tag, "place": place} for place, tag in enumerate(job.tags)]


def own_event(job_id: UUID, type: str, data: Mapping[str, object]) -> dict[str, object]:
    """The row of an event that is the orchestrator's own, now, with the principal who asked for it, if one did."""
    by = actor()
    if by is not None:
        data = {**data, "by": by}
    return {
        "job_id": str(job_id),
        "attempt": None,
        "seq": None,
        "ts": time.time(),
        "type": type,
        "data": json.dumps(data),
    }
