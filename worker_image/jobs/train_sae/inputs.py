"""What a run starts from: everything that can be wrong is found here, cheapest first, in seconds."""

from dataclasses import dataclass, fields, replace

import torch

from worker_image.contract.jobs import TrainSaeParams
from worker_image.contract.tracking import TrackingParams
from worker_image.device import choose_device
from worker_image.errors import UserError
from worker_image.jobs.activations import cache_of, open_activations
from worker_image.jobs.train_sae.learner import Learner
from worker_image.jobs.train_sae.memory import Need
from worker_image.jobs.train_sae.run_state import RunState
from worker_image.lm.activations import Activations, Feeding, batches_of
from worker_image.lm.batches import Batches
from worker_image.lm.dataset import Dataset
from worker_image.lm.harvest import Columns
from worker_image.reporter import RunContext
from worker_image.sae.checkpoint import CheckpointCorrupt, CheckpointState, load_checkpoint
from worker_image.sae.config import SaeConfig
from worker_image.sae.trainer import Trainer

_MAY_DIFFER_ON_RESUME = (
    TrainSaeParams.live | {"device", "network", "prefetch", "export_formats"} | TrackingParams.model_fields.keys()
)
"""Parameters that may change in the course of a training: a job with other values may continue its checkpoint."""


@dataclass(frozen=True)
class Inputs:
    """All that is known before any weight is read."""

    device: torch.device
    activations: Activations
    batches: Batches
    checkpoint: CheckpointState | None
    gpu_memory_mb: int | None
    """Of the GPU, where it is shared."""


@dataclass(frozen=True)
class Loaded:
    """What reading weights adds."""

    columns: Columns
    """Which columns of a batch belong to which hookpoint."""
    learners: list[Learner]
    """In the order of the grid."""
    need: Need
    """What was reckoned with of memory."""


def check_inputs(params: TrainSaeParams, run: RunContext) -> Inputs:
    """Find whatever is wrong with the inputs, cheapest first.

    Raises:
        UserError: with the parameter at fault.
    """
    device = choose_device(params.device, run.gpus, run.gpu_memory_mb)
    if params.max_tokens is not None and params.max_tokens < params.batch_size:
        raise UserError(
            "max_tokens", f"{params.max_tokens} tokens are less than one batch ({params.batch_size})", "raise it"
        )
    activations = open_activations(params, run, params.hookpoints, device, least_training=params.batch_size)
    checkpoint = _checkpoint(params, run, activations.dataset)
    position = RunState.of(checkpoint).position if checkpoint else None
    batches = batches_of(
        activations,
        _feeding(params, device),
        cache_of(params, run),
        required=params.cache == "on",
        position=position,
    )
    return Inputs(device, activations, batches, checkpoint, run.gpu_memory_mb)


def without_cache(params: TrainSaeParams, inputs: Inputs) -> Inputs:
    """The same from the first batch on, harvested as training goes."""
    return replace(inputs, batches=batches_of(inputs.activations, _feeding(params, inputs.device), None))


def _feeding(params: TrainSaeParams, device: torch.device) -> Feeding:
    return Feeding(
        batch_size=params.batch_size,
        total_tokens=params.steps * params.batch_size,
        limit=params.max_tokens,
        window=params.buffer_tokens,
        seed=params.seed,
        prefetch=params.prefetch == "on" or (params.prefetch == "auto" and device.type == "cuda"),
    )


def load(params: TrainSaeParams, inputs: Inputs) -> Loaded:
    """Read the language model's weights and build the autoencoders to match.

    Raises:
        UserError: with the parameter that asked for too much memory, or at fault otherwise.
    """
    columns = inputs.batches.columns()
    variants = params.variants()
    configs = [sae_config(variant, columns) for variant in variants]
    need = Need.of(
        params,
        inputs.activations.source.config.to_dict(),
        columns,
        inputs.device,
        inputs.batches.buffered_tokens,
    )
    need.check(inputs.gpu_memory_mb)
    learners: list[Learner] = []
    for variant, config in zip(variants, configs, strict=True):
        try:
            trainer = Trainer(config, inputs.device)
        except torch.cuda.OutOfMemoryError as error:
            raise need.lacking(
                "expansion_factor",
                f"an autoencoder of {config.d_sae} latents, beside {len(learners)} others,",
                "lower expansion_factor" if len(variants) == 1 else "lower expansion_factor, or make the grid smaller",
            ) from error
        learners.append(Learner(params.label(variant), trainer, *ends(params, columns)))
    return Loaded(columns, learners, need)


def ends(params: TrainSaeParams, columns: Columns) -> tuple[slice, slice]:
    """The columns that are encoded and those that are predicted."""
    read = [columns[name] for name in (params.hookpoint, *params.crosscoder_hookpoints)]
    encoded = slice(read[0].start, read[-1].stop)
    return encoded, encoded if params.target_hookpoint is None else columns[params.target_hookpoint]


def sae_config(params: TrainSaeParams, columns: Columns) -> SaeConfig:
    """The autoencoder that ``params``, without a grid, ask for on activations of these widths.

    Raises:
        UserError: ``k`` or ``auxk_k`` exceeds the number of latents, or a crosscoder's hookpoints differ in width.
    """
    encoded, predicted = ends(params, columns)
    d_in = encoded.stop - encoded.start
    layers = 1 + len(params.crosscoder_hookpoints)
    widths = {
        name: columns[name].stop - columns[name].start for name in (params.hookpoint, *params.crosscoder_hookpoints)
    }
    if len(set(widths.values())) > 1:
        raise UserError(
            "crosscoder_hookpoints",
            f"they differ in width: {', '.join(f'{name} {width}' for name, width in widths.items())}",
            "name hookpoints of one width",
        )
    d_sae = d_in // layers * params.expansion_factor
    for field, value in (("k", params.k), ("auxk_k", params.auxk_k or 1)):
        if value > d_sae:
            raise UserError(
                field,
                f"{value} exceeds the {d_sae} latents (width {d_in // layers} x expansion_factor "
                f"{params.expansion_factor})",
                f"lower {field} or raise expansion_factor",
            )
    shared = {field.name for field in fields(SaeConfig)} & type(params).model_fields.keys()
    return SaeConfig(
        d_in=d_in,
        d_sae=d_sae,
        d_out=None if params.target_hookpoint is None else predicted.stop - predicted.start,
        layers=layers,
        matryoshka_fractions=tuple(params.matryoshka_fractions),
        **{name: getattr(params, name) for name in shared - {"matryoshka_fractions"}},
    )


def _checkpoint(params: TrainSaeParams, run: RunContext, dataset: Dataset) -> CheckpointState | None:
    """The checkpoint to continue from, refused unless it belongs to this very training."""
    if run.resume_from is None:
        return None
    try:
        loaded = load_checkpoint(run.resume_from)
    except (FileNotFoundError, CheckpointCorrupt) as error:
        raise UserError("resume_from", str(error), "resume from an older checkpoint or start afresh") from error
    for name, value in params.model_dump(mode="json").items():
        if name not in _MAY_DIFFER_ON_RESUME and loaded.params.get(name) != value:
            raise UserError(
                name,
                f"the checkpoint was written with {name}={loaded.params.get(name)!r}, the job says {value!r}",
                "use the same value, or start afresh",
            )
    if (before := RunState.of(loaded).dataset_bytes) != dataset.size_bytes:
        raise UserError(
            "dataset",
            f"{dataset.name} has {dataset.size_bytes} bytes; at the checkpoint it had {before}",
            "restore the dataset, or start afresh",
        )
    return loaded
