"""Rows to domain objects."""

import json
import sqlite3
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from orchestrator.domain import (
    Artifact,
    Attempt,
    Checkpoint,
    EndReason,
    Job,
    JobFailure,
    JobStatus,
    Resources,
    RetryPolicy,
)
from worker_image.contract.jobs import job_params


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def moment_or_none(seconds: float | None) -> datetime | None:
    return None if seconds is None else moment(seconds)


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def failure_json(failure: JobFailure | None) -> str | None:
    if failure is None:
        return None
    return json.dumps(
        {
            "reason": failure.reason,
            "message": failure.message,
            "field": failure.field,
            "suggestion": failure.suggestion,
        }
    )


def _failure(text: str | None) -> JobFailure | None:
    if text is None:
        return None
    fields = json.loads(text)
    return JobFailure(EndReason(fields["reason"]), fields["message"], fields["field"], fields["suggestion"])


# Most jobs ask for the same: one frozen object then serves them all, and is parsed once.
_resources = lru_cache(maxsize=1024)(Resources.model_validate_json)
_retry = lru_cache(maxsize=1024)(RetryPolicy.model_validate_json)


def job(row: sqlite3.Row) -> Job:
    return Job(
        id=UUID(row["id"]),
        name=row["name"],
        params=job_params.validate_json(row["params"]),
        resources=_resources(row["resources"]),
        status=JobStatus(row["status"]),
        created_at=moment(row["created_at"]),
        owner=row["owner"],
        priority=row["priority"],
        tags=tuple(json.loads(row["tags"])),
        intent=row["intent"],
        phase=row["phase"],
        started_at=moment_or_none(row["started_at"]),
        completed_at=moment_or_none(row["completed_at"]),
        failure=_failure(row["failure"]),
        restarted_from=UUID(row["restarted_from"]) if row["restarted_from"] else None,
        resume_from=row["resume_from"],
        sweep=UUID(row["sweep"]) if row["sweep"] else None,
        attempts=row["attempts"],
        retry=_retry(row["retry"]),
        retries=row["retries"],
        not_before=moment_or_none(row["not_before"]),
        secrets=tuple(json.loads(row["secrets"])),
        inputs=_json(row["inputs"]),
        progress=_json(row["progress"]),
        metrics=_json(row["metrics"]),
        results=_json(row["results"]),
        archived_at=moment_or_none(row["archived_at"]),
        purging_at=moment_or_none(row["purging_at"]),
    )


def job_values(job: Job) -> dict[str, object]:
    """What a new job's row is made of."""
    return {
        "id": str(job.id),
        "type": job.type,
        "name": job.name,
        "owner": job.owner,
        "priority": job.priority,
        "params": job.params.model_dump_json(),
        "secrets": json.dumps(job.secrets),
        "inputs": None if job.inputs is None else json.dumps(job.inputs),
        "resources": job.resources.model_dump_json(),
        "retry": job.retry.model_dump_json(exclude_defaults=True),
        "created_at": job.created_at.timestamp(),
        "restarted_from": str(job.restarted_from) if job.restarted_from else None,
        "resume_from": job.resume_from,
        "sweep": str(job.sweep) if job.sweep else None,
    }


def attempt(row: sqlite3.Row) -> Attempt:
    return Attempt(
        job_id=UUID(row["job_id"]),
        number=row["number"],
        executor=row["executor"],
        handle=row["handle"],
        gpus=tuple(json.loads(row["gpus"])),
        gpu_memory_mb=row["gpu_memory_mb"],
        cpus=row["cpus"],
        memory_mb=row["memory_mb"],
        resume_from=row["resume_from"],
        created_at=moment(row["created_at"]),
        started_at=moment_or_none(row["started_at"]),
        ended_at=moment_or_none(row["ended_at"]),
        exit_code=row["exit_code"],
        end_reason=EndReason(row["end_reason"]) if row["end_reason"] else None,
        detail=row["detail"],
        events_offset=row["events_offset"],
        peak_memory_mb=row["peak_memory_mb"],
        peak_gpu_memory_mb=row["peak_gpu_memory_mb"],
    )


def checkpoint(row: sqlite3.Row) -> Checkpoint:
    return Checkpoint(
        job_id=UUID(row["job_id"]),
        attempt=row["attempt"],
        name=row["name"],
        step=row["step"],
        loss=row["loss"],
        held_out_loss=row["held_out_loss"],
        size_bytes=row["size_bytes"],
        digest=row["digest"],
        reason=row["reason"],
        created_at=moment(row["created_at"]),
    )


def artifact(row: sqlite3.Row) -> Artifact:
    return Artifact(
        job_id=UUID(row["job_id"]),
        attempt=row["attempt"],
        path=row["path"],
        kind=row["kind"],
        size_bytes=row["size_bytes"],
        digest=row["digest"],
        created_at=moment(row["created_at"]),
    )
