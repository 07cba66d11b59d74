"""What a job would take, over HTTP: looked at before it is submitted."""

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter

from orchestrator.access import Role
from orchestrator.api.auth import needs
from orchestrator.api.state import Orchestrator, State, Who
from orchestrator.domain import Job, JobStatus
from orchestrator.estimate import Place, Speed, correction, gpu_for, only_trainings, seconds, training_estimate
from orchestrator.intake import parse_params, resolve
from orchestrator.inventory import model_shape
from orchestrator.store import JobFilter
from orchestrator.views import EstimateView, JobSubmission
from worker_image.contract.budget import training_budget
from worker_image.contract.jobs import TrainSaeParams

router = APIRouter(prefix="/api/estimates", tags=["jobs"])

_LOOKED_BACK = 20
"""Earlier jobs that an estimate is corrected by."""


@router.post("")
@needs(Role.WRITE)
async def estimate(orchestrator: Orchestrator, who: Who, submission: JobSubmission) -> EstimateView:
    """What a training would take: memory, disk, time and cost. Takes what a submit takes, and queues nothing."""
    who.may_submit(submission.type.replace("-", "_"))
    params = only_trainings(parse_params(submission.type, submission.params))
    inputs = await asyncio.to_thread(resolve, params, orchestrator.inventory)
    shape = await asyncio.to_thread(model_shape, inputs["model"])
    sight = await orchestrator.monitor.look()
    place = Place(
        gpu=gpu_for(params, submission.resources, sight.gpus.gpus),
        cores=submission.resources.cpus or orchestrator.settings.cpus,
        memory_bytes=sight.host.memory_total,
        disk_free_bytes=sight.host.disk_free,
    )
    ran = await _ran(orchestrator, who.owner, place.speed, on_gpu=place.gpu is not None)
    return training_estimate(
        params,
        submission.resources,
        shape,
        place,
        cache=orchestrator.settings.activation_cache_mb > 0,
        known=correction(ran),
        gpu_hour_price=orchestrator.settings.gpu_hour_price,
    )


async def _ran(orchestrator: State, owner: str | None, speed: Speed, *, on_gpu: bool) -> list[tuple[float, float]]:
    """Of earlier trainings on such a device, the seconds estimated and the seconds taken."""
    wanted = JobFilter(status=(JobStatus.COMPLETED,), type="train_sae", within_owner=owner)
    found, _ = await orchestrator.store.jobs(wanted, limit=_LOOKED_BACK)
    alike = []
    for job in found:
        attempts = await orchestrator.store.attempts(job.id)
        if attempts and bool(attempts[-1].gpus) == on_gpu:
            alike.append(job)
    return await asyncio.to_thread(_durations, alike, speed, on_gpu)


def _durations(jobs: Sequence[Job], speed: Speed, on_gpu: bool) -> list[tuple[float, float]]:
    found = []
    for job in jobs:
        took = (job.results or {}).get("wall_time_s")
        shape = model_shape((job.inputs or {}).get("model", ""))
        # What it read may be gone, and without it nothing is known of its work.
        if isinstance(job.params, TrainSaeParams) and took and shape.d_model:
            # Whether it found its activations in a cache is not known any more.
            work = training_budget(job.params, shape, on_gpu=on_gpu, cached=job.params.cache != "off").work
            found.append((seconds(work, speed, model_in_half=job.params.model_dtype != "float32"), took))
    return found
