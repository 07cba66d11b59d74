"""Jobs to test with."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from orchestrator.domain import Job, JobStatus, Resources
from worker_image.contract.jobs import ContainerParams, TrainSaeParams


def container_job(**changes: Any) -> Job:
    job = Job(
        id=uuid4(),
        name="a job",
        params=ContainerParams(image="busybox", command=["true"]),
        resources=Resources(),
        status=JobStatus.QUEUED,
        created_at=datetime.now(UTC),
    )
    return replace(job, **changes)


def training_job(**changes: Any) -> Job:
    return container_job(params=TrainSaeParams(model="m", dataset="d"), **changes)
