"""What a training takes on a machine: memory, disk, time and cost. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from statistics import median

from orchestrator.domain import Params, Resources
from orchestrator.errors import InvalidInput
from orchestrator.gpus import Gpu
from orchestrator.views.estimates import AdviceView, ComponentView, EstimateView, PoolView
from worker_image.contract.budget import MIB, Budget, Pool, Work, advice, training_budget
from worker_image.contract.jobs import TrainSaeParams
from worker_image.contract.model_shape import ModelShape

_TERA = 1e12
_GIGA = 1e9
_START_S = 10.0
"""Imports, reading the model, and the last evaluation."""
_EFFICIENCY = 0.4
"""Share of a GPU's figures on paper that such training reaches."""
_PER_CORE_FLOP_S = 40 * _GIGA
_PER_CORE_BYTES_S = 6 * _GIGA


@dataclass(frozen=True, slots=True)
class Speed:
    """What a machine computes in a second."""

    half_flop_s: float
    """With 16-bit numbers."""
    single_flop_s: float
    """With 32-bit numbers, in the reduced precision that matrix products use by default."""
    bytes_s: float
    """Read and written in its memory."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a training would run."""

    gpu: Gpu | None
    """None when it computes on the processor."""
    cores: float
    """That it may use."""
    memory_bytes: int
    """Of the machine."""
    disk_free_bytes: int

    @property
    def speed(self) -> Speed:
        return gpu_speed(self.gpu.name) if self.gpu else cpu_speed(self.cores)


_PAPER: dict[str, Speed] = {
    "B200": Speed(2250 * _TERA, 80 * _TERA, 8000 * _GIGA),
    "H200": Speed(990 * _TERA, 67 * _TERA, 4800 * _GIGA),
    "H100": Speed(990 * _TERA, 67 * _TERA, 3350 * _GIGA),
    "A100": Speed(312 * _TERA, 19.5 * _TERA, 1900 * _GIGA),
    "L40S": Speed(362 * _TERA, 91 * _TERA, 864 * _GIGA),
    "L4": Speed(121 * _TERA, 30 * _TERA, 300 * _GIGA),
    "A10": Speed(125 * _TERA, 31 * _TERA, 600 * _GIGA),
    "T4": Speed(65 * _TERA, 8 * _TERA, 320 * _GIGA),
    "V100": Speed(125 * _TERA, 15.7 * _TERA, 900 * _GIGA),
    "RTX 5090": Speed(209 * _TERA, 105 * _TERA, 1790 * _GIGA),
    "RTX 4090": Speed(165 * _TERA, 83 * _TERA, 1008 * _GIGA),
    "RTX 3090": Speed(71 * _TERA, 36 * _TERA, 936 * _GIGA),
}
"""Part of a GPU's name -> its makers' figures for dense products. The first that fits holds."""
_OTHER_GPU = Speed(60 * _TERA, 15 * _TERA, 400 * _GIGA)


def gpu_speed(name: str) -> Speed:
    """What a GPU of this name reaches; a modest one's where the name is not known."""
    paper = next((speed for part, speed in _PAPER.items() if part in name), _OTHER_GPU)
    return Speed(paper.half_flop_s * _EFFICIENCY, paper.single_flop_s * _EFFICIENCY, paper.bytes_s * _EFFICIENCY)


def cpu_speed(cores: float) -> Speed:
    """What so many processor cores reach."""
    flop_s = cores * _PER_CORE_FLOP_S
    return Speed(flop_s, flop_s, cores * _PER_CORE_BYTES_S)


def seconds(work: Work, speed: Speed, *, model_in_half: bool) -> float:
    """How long ``work`` takes at ``speed``: harvesting and training one after the other."""
    harvesting = work.harvest_flop / (speed.half_flop_s if model_in_half else speed.single_flop_s)
    training = work.training_flop / speed.single_flop_s + work.moved_bytes / speed.bytes_s
    return _START_S + harvesting + training


def correction(ran: Iterable[tuple[float, float]]) -> tuple[float, int]:
    """By what estimates here have to be multiplied, and from how many jobs that is known.

    Args:
        ran: of earlier jobs, the seconds estimated and the seconds they took.
    """
    ratios = [took / estimated for estimated, took in ran if estimated > 0 and took > 0]
    return (median(ratios), len(ratios)) if ratios else (1.0, 0)


def only_trainings(params: Params) -> TrainSaeParams:
    """Raises: InvalidInput: the needs of such a job cannot be told."""
    if not isinstance(params, TrainSaeParams):
        raise InvalidInput("type: only the needs of train_sae can be told beforehand", field="type")
    return params


def gpu_for(params: TrainSaeParams, resources: Resources, gpus: Iterable[Gpu]) -> Gpu | None:
    """The smallest GPU that the job may get; none when it computes on the processor."""
    if params.device == "cpu" or resources.gpus == 0:
        return None
    fitting = [
        gpu
        for gpu in gpus
        if not gpu.lost
        and (not resources.gpu_model or resources.gpu_model.lower() in gpu.name.lower())
        and (not resources.gpu_ids or gpu.uuid in resources.gpu_ids or str(gpu.index) in resources.gpu_ids)
    ]
    return min(fitting, key=lambda gpu: gpu.memory_total_mb, default=None)


def training_estimate(
    params: TrainSaeParams,
    resources: Resources,
    shape: ModelShape,
    place: Place,
    *,
    cache: bool,
    known: tuple[float, int] = (1.0, 0),
    gpu_hour_price: float = 0.0,
) -> EstimateView:
    """What the training would take there.

    Args:
        cache: the training would be lent a cache of activations, if it takes one.
        known: by what durations have to be multiplied, and from how many earlier jobs that is known.

    Raises:
        InvalidInput: nothing is known of the model.
    """
    if shape.d_model is None:
        raise InvalidInput(
            f"params.model: the width of {params.model!r} is not known before it is fetched",
            field="params.model",
            suggestion="put the model under <home>/models",
        )
    gpu, (factor, measured) = place.gpu, known
    make = partial(training_budget, shape=shape, on_gpu=gpu is not None, cached=cache and params.cache != "off")
    budget = make(params)
    lasts = factor * seconds(budget.work, place.speed, model_in_half=params.model_dtype != "float32")
    pools = [
        _pool(pool, params, budget, limit, make)
        for pool, limit in _limits(resources, place).items()
        if budget.total(pool)
    ]
    hours = lasts / 3600 * (1 if gpu else 0)
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
        cost=round(hours * gpu_hour_price, 4) if gpu_hour_price and gpu else None,
        warnings=_warnings(shape, gpu, resources),
    )


def _limits(resources: Resources, place: Place) -> dict[Pool, int]:
    gpu = place.gpu
    limits: dict[Pool, int] = {"gpu": (resources.gpu_memory_mb or gpu.memory_total_mb) * MIB} if gpu else {}
    host = resources.memory_mb * MIB if resources.memory_mb else place.memory_bytes
    return limits | {"host": host, "disk": place.disk_free_bytes}


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
