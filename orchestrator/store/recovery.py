"""Taking over what run directories tell and the database does not know, as after an older copy was put back."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from orchestrator.domain import TERMINAL, Attempt, Intent, Job, JobStatus
from orchestrator.store import rows
from orchestrator.store.database import Database, Session
from orchestrator.store.records import Ended
from orchestrator.store.sources import keep_sources, sources_of
from orchestrator.usage import weight


@dataclass(frozen=True, slots=True)
class Known:
    """What the database knows of a job."""

    status: JobStatus
    ended: dict[int, bool]
    """Number of an attempt -> whether it has ended."""


@dataclass(frozen=True, slots=True)
class FoundAttempt:
    """An attempt as its files tell of it."""

    attempt: Attempt
    is_new: bool
    """Whether the database does not know it."""
    ended: Ended | None
    """None when it may still run."""
    ended_at: datetime


class Recovery:
    """The changes of a database that others may not make: they go around the table of transitions."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def is_empty(self) -> bool:
        """Whether there is no job at all."""
        return await self._db.one("any_job") is None

    async def known(self) -> dict[UUID, Known]:
        """Every job with its attempts."""
        found: dict[UUID, Known] = {}
        for row in await self._db.all("known_attempts"):
            job = found.setdefault(UUID(row["job_id"]), Known(JobStatus(row["status"]), {}))
            if row["number"] is not None:
                job.ended[row["number"]] = bool(row["ended"])
        return found

    async def adopt(self, job: Job, attempts: Sequence[FoundAttempt], *, is_new: bool) -> None:
        """Keep a job (when it ``is_new``) and attempts of it, in order; its newest attempt tells where the job stands.

        One that may still run is live afterwards: its supervisor finds out.
        """

        def keep(session: Session) -> None:
            if is_new:
                session.run("insert_job", **rows.job_values(job))
                tags = [{"job_id": str(job.id), "tag": tag, "place": place} for place, tag in enumerate(job.tags)]
                session.run_each("insert_tag", tags)
                keep_sources(session, job.id, sources_of(job))
            for found in attempts:
                _keep_attempt(session, found)
            session.run("rebuild_job", id=str(job.id), **_standing(attempts[-1]))
            session.run("insert_event", **_event(job.id, attempts))

        await self._db.write(keep)


def _keep_attempt(session: Session, found: FoundAttempt) -> None:
    attempt = found.attempt
    name: dict[str, object] = {"job_id": str(attempt.job_id), "number": attempt.number}
    if found.is_new:
        session.run(
            "insert_attempt",
            **name,
            executor=attempt.executor,
            gpus=json.dumps(list(attempt.gpus)),
            gpu_memory_mb=attempt.gpu_memory_mb,
            cpus=attempt.cpus,
            memory_mb=attempt.memory_mb,
            weight=weight(attempt.cpus, len(attempt.gpus)),
            resume_from=attempt.resume_from,
            now=attempt.created_at.timestamp(),
        )
    if found.ended is None:
        for gpu in attempt.gpus:
            # Whoever held it according to the database had given it back before this attempt began.
            session.run("take_lease", gpu=gpu, memory_mb=attempt.gpu_memory_mb)
            session.run(
                "insert_lease",
                gpu=gpu,
                job_id=str(attempt.job_id),
                attempt=attempt.number,
                memory_mb=attempt.gpu_memory_mb,
            )
        return
    session.run(
        "rebuild_attempt",
        **name,
        ended_at=found.ended_at.timestamp(),
        started_at=attempt.created_at.timestamp(),
        exit_code=found.ended.exit_code,
        end_reason=found.ended.reason,
        detail=found.ended.failure.message if found.ended.failure else None,
    )
    session.run("free_leases", job_id=str(attempt.job_id), attempt=attempt.number)


_INTENT: dict[JobStatus, Intent] = {
    JobStatus.PAUSED: "pause",
    JobStatus.STOPPED: "stop",
    JobStatus.CANCELLED: "cancel",
}
"""What had been wanted of a job that stands there; ``run`` of all others."""


def _standing(newest: FoundAttempt) -> dict[str, object]:
    """Where the newest attempt leaves its job."""
    ended = newest.ended
    status = JobStatus.STARTING if ended is None else ended.status
    return {
        "status": status,
        "intent": _INTENT.get(status, "run"),
        "attempts": newest.attempt.number,
        "started_at": newest.attempt.created_at.timestamp(),
        "completed_at": newest.ended_at.timestamp() if status in TERMINAL else None,
        "failure": rows.failure_json(ended.failure) if ended else None,
        "resume_from": ended.resume_from if ended else None,
        "retries": ended.retries if ended else None,
        "not_before": ended.not_before.timestamp() if ended and ended.not_before else None,
    }


def _event(job_id: UUID, attempts: Sequence[FoundAttempt]) -> dict[str, object]:
    data = {"attempts": [found.attempt.number for found in attempts]}
    return {
        "job_id": str(job_id),
        "attempt": None,
        "seq": None,
        "ts": attempts[-1].ended_at.timestamp(),
        "type": "job_rebuilt",
        "data": json.dumps(data),
    }
