"""What a training tells about itself before it begins."""

import platform
from collections.abc import Mapping

import torch
import transformers

from worker_image import __version__
from worker_image.contract.jobs import TrainSaeParams
from worker_image.jobs.train_sae.inputs import Inputs
from worker_image.jobs.train_sae.learner import Learner

Summary = dict[str, str | int | float | bool | None]


def summary_of(params: TrainSaeParams, inputs: Inputs, learners: list[Learner]) -> Summary:
    """What a person wants to see first."""
    source, dataset = inputs.activations.source, inputs.activations.dataset
    config, trainer = learners[0].trainer.config, learners[0].trainer
    distinct = inputs.batches.distinct_tokens
    found: Summary = {
        "model": source.reference,
        "architecture": type(source.config).__name__.removesuffix("Config"),
        "hookpoint": ", ".join(
            point.name if point.name == point.place else f"{point.name} ({point.place})" for point in source.hookpoints
        ),
        "dataset": dataset.name,
        "dataset_bytes": dataset.size_bytes,
        "tokenizer": type(source.tokenizer).__name__,
        "vocabulary": len(source.tokenizer),
        "training_tokens": f"{params.steps * params.batch_size:,}" + (f" ({distinct:,} distinct)" if distinct else ""),
        "held_out_tokens": params.held_out_tokens,
    }
    if len(learners) > 1:
        found["autoencoders"] = len(learners)
        found |= {f"autoencoder_{index}": learner.label for index, learner in enumerate(learners)}
    found |= {"family": config.family, "d_in": config.d_in, "d_sae": config.d_sae}
    if config.d_out is not None:
        found["d_out"] = config.d_out
    if config.family in ("topk", "batch_topk", "matryoshka"):
        found["k"] = config.k
    return found | {
        "steps": config.steps,
        "batch_size": params.batch_size,
        "optimizer": config.optimizer,
        "lr": trainer.peak_lr,
        "seed": config.seed,
        "python": platform.python_version(),
        **made_with(inputs.device),
    }


def made_with(device: torch.device) -> dict[str, str | int]:
    """What decides beside a training's state and inputs with which weights it ends, to the last bit."""
    return {
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "saeforge": __version__,
    }


def told_apart(before: Mapping[str, str | int], now: Mapping[str, str | int]) -> str:
    """What a checkpoint was made with and is not there now, in words; empty when it is all there."""
    return ", ".join(f"{name} {was} (now {now.get(name)})" for name, was in before.items() if was != now.get(name))


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"
