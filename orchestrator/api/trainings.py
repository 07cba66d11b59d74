"""SAE trainings over HTTP: jobs of that one type, each with the model and the dataset it is about."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from orchestrator.access import Role
from orchestrator.api import jobs, metrics
from orchestrator.api.auth import needs
from orchestrator.api.idempotency import IdempotencyKey
from orchestrator.api.jobs import JobId
from orchestrator.api.query import Dataset, Limit, Model, Offset
from orchestrator.api.state import Orchestrator, Who
from orchestrator.api.system import entry_view
from orchestrator.domain import JobStatus
from orchestrator.errors import NotFound
from orchestrator.store import MAX_STEP
from orchestrator.views import JobDetail, JobPage, MetricSeries, TrainingDetail, TypedSubmission
from worker_image.contract.jobs import TrainSaeParams

TYPE = "train_sae"


async def only_trainings(orchestrator: Orchestrator, job_id: JobId) -> None:
    """Raises: NotFound."""
    if not isinstance((await orchestrator.store.job(job_id)).params, TrainSaeParams):
        raise NotFound(
            f"job {job_id} is no training", field="id", suggestion=f"GET /api/jobs/{job_id} tells what it is"
        )


router = APIRouter(prefix="/api/trainings", tags=["trainings"])
_one = APIRouter(prefix="/{id}", dependencies=[Depends(only_trainings)])


@router.post("", status_code=201)
@needs(Role.WRITE)
async def create(
    orchestrator: Orchestrator, who: Who, submission: TypedSubmission, key: IdempotencyKey = None
) -> JobDetail:
    """Queue a training."""
    return await jobs.submit_type(orchestrator, who, TYPE, submission, key)


@router.get("")
@needs(Role.READ)
async def trainings(
    orchestrator: Orchestrator,
    who: Who,
    status: Annotated[list[JobStatus] | None, Query(description="May be given several times.")] = None,
    model: Model = None,
    dataset: Dataset = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> JobPage:
    """Trainings, newest first."""
    return await jobs.jobs(
        orchestrator, who, status=status, type=TYPE, model=model, dataset=dataset, limit=limit, offset=offset
    )


@_one.get("")
@needs(Role.READ)
async def training(orchestrator: Orchestrator, job_id: JobId) -> TrainingDetail:
    """One training, with the model and the dataset as they lie on disk now."""
    detail = await jobs.job(orchestrator, job_id)
    inputs = (await orchestrator.store.job(job_id)).inputs or {}
    models = await asyncio.to_thread(orchestrator.inventory.models)
    datasets = await asyncio.to_thread(orchestrator.inventory.datasets)
    return TrainingDetail(
        **dict(detail),
        model=next((entry_view(item) for item in models if str(item.path) == inputs.get("model")), None),
        dataset=next((entry_view(item) for item in datasets if str(item.path) == inputs.get("dataset")), None),
    )


for action in (jobs.pause, jobs.resume, jobs.stop):
    _one.post(f"/{action.__name__}", status_code=202)(action)
_one.get("/metrics", response_model=MetricSeries)(metrics.metrics)
_one.get("/checkpoints")(jobs.checkpoints)
_one.post("/checkpoints", status_code=202)(jobs.checkpoint)
_one.post("/restart", status_code=201)(jobs.restart)
_one.delete("/checkpoints/{name}", status_code=204)(jobs.delete_checkpoint)


@_one.post("/checkpoints/{name}/load", status_code=201)
@needs(Role.WRITE)
async def load(
    orchestrator: Orchestrator,
    who: Who,
    job_id: JobId,
    name: str,
    attempt: Annotated[int | None, Query(ge=1, le=MAX_STEP, description="The newest that has it when empty.")] = None,
    key: IdempotencyKey = None,
) -> JobDetail:
    """Queue a new training that continues from this checkpoint of one that has ended."""
    return await jobs.restart(orchestrator, who, job_id, checkpoint=name, attempt=attempt, key=key)


router.include_router(_one)
