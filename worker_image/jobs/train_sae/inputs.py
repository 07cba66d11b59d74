"""What a run starts from: everything that can be wrong is found here, cheapest first, in seconds."""

from dataclasses import dataclass
from pathlib import Path

import torch

from worker_image.contract.jobs import TrainSaeParams
from worker_image.contract.tracking import TrackingParams
from worker_image.errors import GpuAbsent, OutOfGpuMemory, UserError
from worker_image.lm.buffer import DataPosition, ShuffledBuffer
from worker_image.lm.dataset import Dataset, open_dataset
from worker_image.lm.harvest import Harvester
from worker_image.lm.model import ModelSource, find_model, load_model
from worker_image.lm.tokens import HeldOut, Sequence, SequenceMaker, TokenStream, set_aside
from worker_image.memory import MIB, available_bytes
from worker_image.reporter import RunContext
from worker_image.sae.checkpoint import CheckpointCorrupt, CheckpointState, load_checkpoint
from worker_image.sae.config import SaeConfig
from worker_image.sae.trainer import Trainer

_MAY_DIFFER_ON_RESUME = TrainSaeParams.live | {"device", "network"} | TrackingParams.model_fields.keys()
"""Parameters that may change in the course of a training: a job with other values may continue its checkpoint."""


@dataclass(frozen=True)
class Inputs:
    """All that is known before any weight is read."""

    device: torch.device
    source: ModelSource
    documents: Dataset
    held_out: HeldOut
    buffer: ShuffledBuffer
    first_generation: list[Sequence]
    checkpoint: CheckpointState | None


@dataclass(frozen=True)
class Loaded:
    """What the weights add."""

    harvester: Harvester
    trainer: Trainer


def check_inputs(params: TrainSaeParams, run: RunContext) -> Inputs:
    """Find whatever is wrong with the inputs, cheapest first.

    Raises:
        UserError: with the parameter at fault.
    """
    device = _device(params.device, run.gpus, run.gpu_memory_mb)
    documents = open_dataset(run.inputs.get("dataset", params.dataset), params.text_field, network=params.network)
    documents.check()
    if params.max_tokens is not None and params.max_tokens < params.batch_size:
        raise UserError(
            "max_tokens", f"{params.max_tokens} tokens are less than one batch ({params.batch_size})", "raise it"
        )
    source = find_model(run.inputs.get("model", params.model), [params.hookpoint], network=params.network)
    checkpoint = _checkpoint(params, run.resume_from, documents)
    run.log(f"reading {documents.name}")
    maker = SequenceMaker(source.tokenizer, params.context_length, source.longest)
    held_out = set_aside(documents, maker, params.held_out_tokens, params.batch_size, params.seed)
    buffer = ShuffledBuffer(
        TokenStream(documents, maker, held_out.documents, params.max_tokens),
        capacity=params.buffer_tokens,
        batch_size=params.batch_size,
        total_tokens=params.steps * params.batch_size,
        seed=params.seed,
        position=DataPosition.from_json(checkpoint.run["position"]) if checkpoint else DataPosition(),
    )
    return Inputs(device, source, documents, held_out, buffer, buffer.plan(), checkpoint)


def load(params: TrainSaeParams, inputs: Inputs) -> Loaded:
    """Read the language model's weights and build the autoencoder to match.

    Raises:
        UserError: with the parameter that asked for too much memory, or at fault otherwise.
    """
    source = inputs.source
    try:
        model = load_model(source, getattr(torch, params.model_dtype), inputs.device)
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfGpuMemory(
            "model",
            "the language model does not fit into GPU memory",
            "set model_dtype to bfloat16 or use a smaller one",
        ) from error
    harvester = Harvester(
        model,
        source.hookpoints,
        pad_id=source.tokenizer.pad_token_id or 0,
        batch_tokens=params.harvest_batch_size * params.context_length,
        device=inputs.device,
    )
    config = sae_config(params, d_in=harvester.width(inputs.first_generation[0]))
    _check_memory(params, config, inputs)
    try:
        trainer = Trainer(config, inputs.device)
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfGpuMemory(
            "expansion_factor",
            f"an autoencoder of {config.d_sae} latents does not fit into GPU memory",
            "lower expansion_factor",
        ) from error
    return Loaded(harvester, trainer)


def _check_memory(params: TrainSaeParams, config: SaeConfig, inputs: Inputs) -> None:
    """Refuse now what the kernel would end later. The language model is loaded: its memory is taken already."""
    tokens = inputs.buffer.tokens + params.held_out_tokens
    buffer_bytes = tokens * config.d_in * getattr(torch, params.model_dtype).itemsize
    trainer_bytes = config.training_bytes if inputs.device.type == "cpu" else 0
    available = available_bytes()
    if available is None or buffer_bytes + trainer_bytes <= available:
        return
    field = "buffer_tokens" if buffer_bytes >= trainer_bytes else "expansion_factor"
    raise UserError(
        field,
        f"{tokens} activations of width {config.d_in} take {buffer_bytes // MIB} MiB and the autoencoder with its "
        f"optimiser {trainer_bytes // MIB} MiB, but only {available // MIB} MiB of memory are left",
        f"lower {field} or raise resources.memory_mb",
    )


def sae_config(params: TrainSaeParams, d_in: int) -> SaeConfig:
    """The autoencoder that ``params`` ask for on activations of width ``d_in``.

    Raises:
        UserError: ``k`` or ``auxk_k`` exceeds the number of latents.
    """
    d_sae = d_in * params.expansion_factor
    for field, value in (("k", params.k), ("auxk_k", params.auxk_k or 1)):
        if value > d_sae:
            raise UserError(
                field,
                f"{value} exceeds the {d_sae} latents (width {d_in} x expansion_factor {params.expansion_factor})",
                f"lower {field} or raise expansion_factor",
            )
    return SaeConfig(
        d_in=d_in,
        d_sae=d_sae,
        k=params.k,
        auxk_alpha=params.auxk_alpha,
        auxk_k=params.auxk_k,
        dead_after_tokens=params.dead_after_tokens,
        steps=params.steps,
        optimizer=params.optimizer,
        lr=params.lr,
        beta1=0.9 if params.beta1 is None else params.beta1,
        beta2=params.beta2,
        eps=params.eps,
        weight_decay=params.weight_decay,
        lr_schedule=params.lr_schedule,
        warmup_steps=params.warmup_steps,
        decay_fraction=params.decay_fraction,
        grad_clip=params.grad_clip,
        seed=params.seed,
    )


def _device(wanted: str, granted: int, memory_mb: int | None) -> torch.device:
    """Where to compute; of a GPU shared with other jobs no more than ``memory_mb`` MiB will be taken.

    Raises:
        GpuAbsent: a GPU was granted and cannot be used: on the CPU it would be held for nothing.
        UserError: one was asked for and none granted.
    """
    if wanted != "cpu" and granted and not torch.cuda.is_available():
        built = "" if torch.version.cuda else "; this PyTorch was built without CUDA"
        raise GpuAbsent(
            "device",
            f"{granted} GPU(s) were granted, and CUDA sees none here{built}",
            "check nvidia-smi, and that the worker's image was made for CUDA (make image); or train on the CPU: "
            "device cpu, resources.gpus 0",
        )
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device", "CUDA was asked for but no GPU is available", "set device to auto or cpu, or request a GPU"
        )
    use_cuda = wanted != "cpu" and torch.cuda.is_available()
    if use_cuda and memory_mb is not None:
        share = memory_mb * MIB / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0), 0)
    return torch.device("cuda:0" if use_cuda else "cpu")


def _checkpoint(params: TrainSaeParams, path: Path | None, documents: Dataset) -> CheckpointState | None:
    """The checkpoint to continue from, refused unless it belongs to this very training."""
    if path is None:
        return None
    try:
        loaded = load_checkpoint(path)
    except (FileNotFoundError, CheckpointCorrupt) as error:
        raise UserError("resume_from", str(error), "resume from an older checkpoint or start afresh") from error
    for name, value in params.model_dump(mode="json").items():
        if name not in _MAY_DIFFER_ON_RESUME and loaded.params.get(name) != value:
            raise UserError(
                name,
                f"the checkpoint was written with {name}={loaded.params.get(name)!r}, the job says {value!r}",
                "use the same value, or start afresh",
            )
    if (before := loaded.run["dataset_bytes"]) != documents.size_bytes:
        raise UserError(
            "dataset",
            f"{documents.name} has {documents.size_bytes} bytes; at the checkpoint it had {before}",
            "restore the dataset, or start afresh",
        )
    return loaded
