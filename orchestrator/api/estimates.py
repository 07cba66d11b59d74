"""What a job would take, over HTTP: looked at before it is submitted."""

import asyncio
from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter

from orchestrator.access import Role
from orchestrator.api.auth import needs
from orchestrator.api.state import Orchestrator, State, Who
from orchestrator.domain import Job, JobStatus, Resources
from orchestrator.errors import InvalidInput
from orchestrator.estimate import Speed, correction, cpu_speed, gpu_speed, seconds
from orchestrator.gpus import Gpu
from orchestrator.intake import parse_params, resolve
from orchestrator.inventory import model_shape
from orchestrator.monitor import Sight
from orchestrator.store import JobFilter
from orchestrator.views import EstimateView, JobSubmission
from orchestrator.views.estimates import AdviceView, ComponentView, PoolView
from worker_image.contract.budget import MIB, Budget, Pool, advice, training_budget
from worker_image.contract.jobs import TrainSaeParams
from worker_image.contract.model_shape import ModelShape

router = APIRouter(prefix="/api/estimates", tags=["jobs"])

_LOOKED_BACK = 20
"""Earlier jobs that an estimate is corrected by."""


@router.post("")
@needs(Role.WRITE)
async def estimate(orchestrator: Orchestrator, who: Who, submission: JobSubmission) -> EstimateView:
    """What a training would take: memory, disk, time and cost. Takes what a submit takes, and queues nothing."""
    who.may_submit(submission.type.replace("-", "_"))
    params = parse_params(submission.type, submission.params)
    if not isinstance(params, TrainSaeParams):
        raise InvalidInput("type: only the needs of train_sae can be told beforehand", field="type")
    inputs = await asyncio.to_thread(resolve, params, orchestrator.inventory)
    shape = await asyncio.to_thread(model_shape, inputs["model"])
    if shape.d_model is None:
        raise InvalidInput(
            f"params.model: the width of {params.model!r} is not known before it is fetched",
            field="params.model",
            suggestion="put the model under <home>/models",
        )
    sight = await orchestrator.monitor.look()
    gpu = _gpu(params, submission.resources, sight)
    cached = _cached(params, orchestrator)
    make = partial(training_budget, shape=shape, on_gpu=gpu is not None, cached=cached)
    budget = make(params)
    speed = gpu_speed(gpu.name) if gpu else cpu_speed(submission.resources.cpus or orchestrator.settings.cpus)
    half = params.model_dtype != "float32"
    ran = await _ran(orchestrator, who.owner, speed, on_gpu=gpu is not None)
    factor, measured = correction(ran)
    lasts = factor * seconds(budget.work, speed, model_in_half=half)
    pools = [
        _pool(pool, params, budget, limit, make)
        for pool, limit in _limits(submission.resources, gpu, sight).items()
        if budget.total(pool)
    ]
    hours = lasts / 3600 * (1 if gpu else 0)
    price = orchestrator.settings.gpu_hour_price
    return EstimateView(
        fits=all(pool.fits for pool in pools),
        device=gpu.name if gpu else "cpu",
        d_in=budget.d_in,
        d_sae=budget.d_sae,
        saes=len(params.variants()),
        training_tokens=params.steps * params.batch_size,
        harvested_tokens=budget.work.harvested_tokens,
        pools=pools,
        seconds=round(lasts, 1),
        measured_jobs=measured,
        gpu_hours=round(hours, 4),
        cost=round(hours * price, 4) if price and gpu else None,
        warnings=_warnings(shape, gpu, submission.resources),
    )


def _cached(params: TrainSaeParams, orchestrator: State) -> bool:
    """Whether it is lent the activation cache, and takes it."""
    return params.cache != "off" and orchestrator.settings.activation_cache_mb > 0


def _gpu(params: TrainSaeParams, resources: Resources, sight: Sight) -> Gpu | None:
    """The smallest GPU that the job may get; none when it computes on the processor."""
    if params.device == "cpu" or resources.gpus == 0:
        return None
    fitting = [
        gpu
        for gpu in sight.gpus.gpus
        if not gpu.lost
        and (not resources.gpu_model or resources.gpu_model.lower() in gpu.name.lower())
        and (not resources.gpu_ids or gpu.uuid in resources.gpu_ids or str(gpu.index) in resources.gpu_ids)
    ]
    return min(fitting, key=lambda gpu: gpu.memory_total_mb, default=None)


def _limits(resources: Resources, gpu: Gpu | None, sight: Sight) -> dict[Pool, int]:
    limits: dict[Pool, int] = {"gpu": (resources.gpu_memory_mb or gpu.memory_total_mb) * MIB} if gpu else {}
    host = resources.memory_mb * MIB if resources.memory_mb else sight.host.memory_total
    return limits | {"host": host, "disk": sight.host.disk_free}


def _pool(pool: Pool, params: TrainSaeParams, budget: Budget, limit: int, make: "partial[Budget]") -> PoolView:
    parts = sorted((part for part in budget.components if part.pool == pool), key=lambda part: -part.size_bytes)
    total = budget.total(pool)
    fits = total <= limit
    return PoolView(
        pool=pool,
        total_bytes=total,
        limit_bytes=limit,
        fits=fits,
        components=[ComponentView.model_validate(part) for part in parts],
        advice=[] if fits else [AdviceView.model_validate(item) for item in advice(params, pool, limit, make)],
    )


def _warnings(shape: ModelShape, gpu: Gpu | None, resources: Resources) -> list[str]:
    found = []
    if shape.parameters is None:
        found.append("the size of the language model cannot be told from its configuration; it is left out")
    if gpu is None and resources.gpus:
        found.append("no GPU that the job asks for is seen here; the estimate is for the processor")
    return found


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
