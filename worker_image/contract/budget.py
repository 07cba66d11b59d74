"""What a training will take before it runs: memory and disk by component, and its work, from parameters and shapes.

Both sides use it: the orchestrator for whoever fills in a form, the worker before it starts. Sizes are in bytes and
meant to be right within a quarter; they err on the large side. Pure arithmetic: nothing is read or measured here.

Symbols: B batch_size, D d_in, F d_sae, P parameters of an autoencoder.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from worker_image.contract.model_shape import ModelShape
from worker_image.contract.train_sae import TrainSaeParams

MIB = 2**20
GIB = 2**30

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_FLOAT = 4
_PROGRAM_ON_CPU = 450 * MIB
"""Resident after torch and transformers are imported and have run once."""
_PROGRAM_BESIDE_GPU = 1536 * MIB
"""The same with the CUDA libraries."""
_CUDA_CONTEXT = 600 * MIB
"""What the driver and the libraries take of a GPU before anything is computed."""
_CHUNK = {"gpu": 512 * MIB, "host": 16 * MIB}
"""Pre-activations held at once by the fused selection; see ``worker_image/sae/sparse.py``."""
_LEAST_ROWS = 256
_POSITION_BYTES = 320
"""For one active latent of one token: values, gradients, row, latent, and the order by latent. Measured."""
_DENSE_COPIES = {"standard": 6, "jumprelu": 7, "gated": 9}
"""Families that let through as many latents as their penalty does, early in training nearly all of them, and how many
B x F tensors a step then holds at once. Measured."""
_STEPS_AT_ONCE = 4
_MOMENTS = {"adam": 2, "adamw": 2, "sgd": 1, "signum": 1, "muon": 1}
"""Numbers that the optimiser keeps for each weight; muon's few vectors, which Adam moves, are not counted twice."""
PROGRAM = "program"
CUDA_CONTEXT = "CUDA context"
LANGUAGE_MODEL = "language model"
MODEL_ACTIVATIONS = "model activations"
BUFFER = "activation buffer"
COPY = "checkpoint being written"
"""The component that is done without where there is no room: training then waits until it is written."""
_BLOCK = re.compile(r"^layers\.(\d+)")

Pool = Literal["gpu", "host", "disk"]
"""What is taken: the GPU's memory, the machine's, or disk."""


@dataclass(frozen=True, slots=True)
class Component:
    """One thing that takes memory or disk."""

    name: str
    pool: Pool
    size_bytes: int
    field: str | None = None
    """The parameter that it grows with most."""


@dataclass(frozen=True, slots=True)
class Work:
    """What has to be computed, whatever computes it."""

    harvested_tokens: int
    harvest_flop: float
    training_flop: float
    moved_bytes: float
    """Read and written by the optimiser, which is bound by memory, not by arithmetic."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a training takes."""

    components: tuple[Component, ...]
    work: Work
    d_in: int
    d_sae: int
    """Latents of the widest autoencoder."""

    def total(self, pool: Pool) -> int:
        """Bytes of all components of a pool."""
        return sum(component.size_bytes for component in self.components if component.pool == pool)

    def table(self, pool: Pool) -> str:
        """The components of a pool, largest first, in one line for people."""
        return listed([part for part in self.components if part.pool == pool])


@dataclass(frozen=True, slots=True)
class Advice:
    """One change after which a pool suffices."""

    field: str
    value: int | str
    saves_bytes: int

    def __str__(self) -> str:
        return f"{self.field} {self.value} (saves {readable(self.saves_bytes)})"


def training_budget(
    params: TrainSaeParams, shape: ModelShape, *, on_gpu: bool, cached: bool, d_in: int | None = None
) -> Budget:
    """What ``params`` take on a model of ``shape``.

    Args:
        on_gpu: whether it computes on a GPU; otherwise everything is in the machine's memory.
        cached: whether activations come from the cache on disk instead of a buffer in memory.
        d_in: width of one hookpoint where it is known; the model's own when empty.

    Raises:
        ValueError: neither ``d_in`` nor the model's width is known.
    """
    width = d_in or shape.d_model
    if width is None:
        raise ValueError("the model's configuration does not tell its width")
    places = 1 + len(params.crosscoder_hookpoints)
    read = width * places
    kept = read + (width if params.target_hookpoint else 0)
    device: Pool = "gpu" if on_gpu else "host"
    variants = params.variants()
    parameters = sum(_parameters(variant, read) for variant in variants)
    components = (
        Component(PROGRAM, "host", _PROGRAM_BESIDE_GPU if on_gpu else _PROGRAM_ON_CPU),
        *((Component(CUDA_CONTEXT, "gpu", _CUDA_CONTEXT),) if on_gpu else ()),
        *_model(params, shape, width, kept, device),
        Component("SAE weights", device, _FLOAT * parameters, "expansion_factor"),
        Component("gradients", device, _FLOAT * parameters, "expansion_factor"),
        *_beside_weights(variants, read, device),
        Component(
            "training step",
            device,
            steps_at_once(params, on_gpu=on_gpu) * max(_step(variant, read, kept, device) for variant in variants),
            "batch_size",
        ),
        *_encoder_copy(variants, read, device, steps_at_once(params, on_gpu=on_gpu)),
        *_stored(params, kept, on_gpu=on_gpu, cached=cached),
        Component(COPY, "host", 3 * _FLOAT * parameters, "expansion_factor"),
        *_disk(params, parameters),
    )
    d_sae = max(_latents(variant, read) for variant in variants)
    return Budget(components, _work(params, variants, shape, read, parameters, cached=cached), read, d_sae)


def steps_at_once(params: TrainSaeParams, *, on_gpu: bool) -> int:
    """How many autoencoders of a grid may take their step at the same time: on a CPU, where a step is not divided among
    all threads without loss, and of families whose step takes little memory."""
    if on_gpu or any(variant.family in _DENSE_COPIES for variant in params.variants()):
        return 1
    return min(len(params.variants()), _STEPS_AT_ONCE)


def _beside_weights(variants: list[TrainSaeParams], read: int, device: Pool) -> Iterator[Component]:
    """What is kept for each weight from step to step, beside itself and its gradient."""
    moments = sum(_MOMENTS[variant.optimizer] * _parameters(variant, read) for variant in variants)
    yield Component("optimiser moments", device, _FLOAT * moments, "expansion_factor")
    # A master in float32 and the eight bits themselves.
    if rounded := sum(_parameters(variant, read) for variant in variants if variant.weights_dtype != "float32"):
        yield Component("masters of 8-bit weights", device, (_FLOAT + 1) * rounded, "expansion_factor")
    # The gradient of the step before, and the weights as they were.
    if looked := sum(_parameters(variant, read) for variant in variants if variant.gradient_statistics_every_steps):
        yield Component("gradient statistics", device, 2 * _FLOAT * looked, "gradient_statistics_every_steps")


def _latents(variant: TrainSaeParams, read: int) -> int:
    """d_sae: latents are counted by the width of one place, however many a crosscoder reads."""
    return read // (1 + len(variant.crosscoder_hookpoints)) * variant.expansion_factor


def _parameters(variant: TrainSaeParams, read: int) -> int:
    """Of one autoencoder."""
    d_sae = _latents(variant, read)
    written = read if variant.target_hookpoint is None else read // (1 + len(variant.crosscoder_hookpoints))
    matrices = d_sae * written + (0 if variant.tied_weights else d_sae * read)
    # Past an autoencoder each dimension only has a gate.
    skip = 0 if not variant.skip_connection else written * read if variant.target_hookpoint else read
    per_latent = {"gated": 3, "jumprelu": 2}.get(variant.family, 1)
    return matrices + skip + per_latent * d_sae + written


def _model(params: TrainSaeParams, shape: ModelShape, width: int, kept: int, device: Pool) -> Iterator[Component]:
    size = _DTYPE_BYTES[params.model_dtype]
    if shape.parameters:
        yield Component(LANGUAGE_MODEL, device, size * shape.parameters, "model_dtype")
    tokens = params.harvest_batch_size * params.context_length
    # The widest moment of a block: its input, the residual, queries, keys, values, or both sides of the MLP.
    live = 6 * width + 2 * (shape.d_inner or 4 * width)
    yield Component(MODEL_ACTIVATIONS, device, tokens * (size * live + size * kept), "harvest_batch_size")


def _step(variant: TrainSaeParams, read: int, kept: int, device: Pool) -> int:
    """Peak working set of a step: what is alive at once beside weights, gradients and moments."""
    batch, d_sae = min(variant.batch_size, variant.micro_batch_size or variant.batch_size), _latents(variant, read)
    rows = min(batch, max(_LEAST_ROWS, _CHUNK[device] // (_FLOAT * d_sae)))
    dense = 5 * _FLOAT * batch * kept
    if copies := _DENSE_COPIES.get(variant.family):
        return dense + copies * _FLOAT * batch * d_sae
    positions = batch * min(d_sae, variant.k * (5 if variant.multi_topk else 1))
    step = dense + 2 * _FLOAT * rows * d_sae + _POSITION_BYTES * positions
    return step + _reviving(variant, read)


def _reviving(variant: TrainSaeParams, read: int) -> int:
    """What helping dead latents takes, should most of them be dead; nothing in a training too short for that."""
    # Empty stands for AuxK in these families.
    policy = variant.dead_latents or "auxk"
    batch = min(variant.batch_size, variant.micro_batch_size or variant.batch_size)
    every = _FLOAT * batch * _latents(variant, read)
    if variant.steps * variant.batch_size <= variant.dead_after_tokens:
        return 0
    if policy == "auxk" and variant.auxk_alpha:
        chosen = _POSITION_BYTES * batch * (variant.auxk_k or max(1, read // 2))
        return every + min(chosen, 3 * every)
    return 2 * every if policy == "ghost" else 0


def _encoder_copy(variants: list[TrainSaeParams], read: int, device: Pool, steps_at_once: int) -> Iterator[Component]:
    """The encoder's weights once more during a step: as a CPU multiplies them fastest, or rounded."""

    def size(variant: TrainSaeParams) -> int:
        rounded = _FLOAT // 2 if variant.encoder_dtype != "float32" else 0
        return read * _latents(variant, read) * (_FLOAT if device == "host" else rounded)

    if largest := max(size(variant) for variant in variants):
        yield Component("encoder reordered or rounded", device, steps_at_once * largest, "expansion_factor")


def activation_bytes(params: TrainSaeParams) -> int:
    """Of one number of an activation that is kept."""
    return _DTYPE_BYTES[params.activation_dtype or params.model_dtype]


def _stored(params: TrainSaeParams, kept: int, *, on_gpu: bool, cached: bool) -> Iterator[Component]:
    token_bytes = kept * activation_bytes(params)
    wanted = params.steps * params.batch_size
    distinct = min(wanted, params.max_tokens or wanted)
    if cached:
        yield Component("activation cache", "disk", (distinct + params.held_out_tokens) * token_bytes, "max_tokens")
    else:
        held = min(params.buffer_tokens, distinct)
        ahead = params.prefetch == "on" or (params.prefetch == "auto" and on_gpu)
        # While one is served, the next is filled.
        buffers = 2 if ahead and held < distinct else 1
        yield Component(BUFFER, "host", buffers * held * token_bytes, "buffer_tokens")
    yield Component("held-out activations", "host", params.held_out_tokens * token_bytes, "held_out_tokens")


def _disk(params: TrainSaeParams, parameters: int) -> Iterator[Component]:
    every = params.checkpoint_every_steps
    saved = 1 + (params.steps - 1) // every if every else 1
    round_ones = params.steps // math.lcm(every, params.keep_every_steps) if every and params.keep_every_steps else 0
    round_ones = min(round_ones, params.keep_every_at_most)
    # The newest, the first, the best, and those at round steps.
    kept = min(saved, params.keep_checkpoints + 2 + round_ones)
    field = "keep_checkpoints" if round_ones <= params.keep_checkpoints else "keep_every_steps"
    # One more is there while it is written, before the oldest goes.
    yield Component("checkpoints", "disk", 3 * _FLOAT * parameters * (kept + 1), field)
    exported = 1 + len(params.export_formats)
    yield Component("artifacts", "disk", _FLOAT * parameters * exported, "export_formats")


def _work(
    params: TrainSaeParams,
    variants: list[TrainSaeParams],
    shape: ModelShape,
    read: int,
    parameters: int,
    *,
    cached: bool,
) -> Work:
    wanted = params.steps * params.batch_size
    distinct = min(wanted, params.max_tokens or wanted)
    # Without the cache, tokens that do not fit the buffer are harvested anew in every epoch.
    once = cached or distinct <= params.buffer_tokens
    harvested = params.held_out_tokens + (distinct if once else wanted)
    per_token = 0.0
    if shape.layers and shape.d_model and (block := shape.block_parameters):
        blocks = _blocks_read(params, shape.layers)
        per_token = blocks * (2 * block + 4 * shape.d_model * params.context_length)
    training = float(sum(_step_flop(variant, read) for variant in variants)) * params.steps
    # Weights, gradient and both moments are read; weights and moments are written.
    moved = 7.0 * _FLOAT * parameters * params.steps
    return Work(harvested, per_token * harvested, training, moved)


def _blocks_read(params: TrainSaeParams, layers: int) -> int:
    """Blocks of the model until the last place that is read."""
    places = [params.hookpoint, *params.crosscoder_hookpoints, params.target_hookpoint or params.hookpoint]
    found = [_BLOCK.match(place) for place in places]
    return max(min(layers, int(match[1]) + 1) if match else layers for match in found)


def _step_flop(variant: TrainSaeParams, read: int) -> int:
    batch, d_sae = variant.batch_size, _latents(variant, read)
    encoder = 2 * batch * read * d_sae
    if variant.family in _DENSE_COPIES:
        return 6 * encoder
    active = variant.k * (5 if variant.multi_topk else 1)
    return encoder + 2 * batch * 4 * active * read


_ADJUSTABLE = (
    "harvest_batch_size",
    "buffer_tokens",
    "model_dtype",
    "batch_size",
    "held_out_tokens",
    "expansion_factor",
)
"""What may be lowered, the least harmful first."""


def advice(
    params: TrainSaeParams, pool: Pool, limit_bytes: int, budget: Callable[[TrainSaeParams], Budget]
) -> list[Advice]:
    """Each single change after which ``pool`` keeps within ``limit_bytes``, the least harmful first.

    Numbers are lowered no further than needed. Empty when no single change suffices.
    """
    before = budget(params).total(pool)
    found = []
    for field in _ADJUSTABLE:
        if field in params.varied():
            continue

        def needs(value: int | str, field: str = field) -> int:
            return budget(params.model_copy(update={field: value})).total(pool)

        value = _lowered(field, params, limit_bytes, needs)
        if value is not None:
            found.append(Advice(field, value, before - needs(value)))
    return found


def _lowered(
    field: str, params: TrainSaeParams, limit_bytes: int, needs: Callable[[int | str], int]
) -> int | str | None:
    """The largest value of ``field`` that fits; none when not even the least does."""
    now = getattr(params, field)
    if field == "model_dtype":
        return "bfloat16" if now == "float32" and needs("bfloat16") <= limit_bytes else None
    # The least that is still of use.
    least = {"buffer_tokens": params.batch_size, "batch_size": 64, "held_out_tokens": 1024}.get(field, 1)
    if least >= now or needs(least) > limit_bytes:
        return None
    low, high = least, now
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needs(middle) <= limit_bytes else (low, middle)
    # Sizes are chosen as powers of two; a factor of the width is small and taken as it is.
    return low if field == "expansion_factor" else max(least, 1 << (low.bit_length() - 1))


def listed(parts: Iterable[Component]) -> str:
    """Components in one line, the largest first."""
    ordered = sorted(parts, key=lambda part: -part.size_bytes)
    return ", ".join(f"{part.name} {readable(part.size_bytes)}" for part in ordered if part.size_bytes)


def readable(size_bytes: float) -> str:
    """A size as a person reads it, e.g. "1.3 GiB"."""
    if size_bytes >= GIB:
        return f"{size_bytes / GIB:.1f} GiB"
    return f"{max(1, math.ceil(size_bytes / MIB))} MiB"
