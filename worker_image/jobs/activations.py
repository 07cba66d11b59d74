"""What jobs that read activations have in common: their parameters made into a model that reads a dataset."""

from collections.abc import Iterable

import torch

from worker_image.contract.activations import ActivationParams, ReadingParams
from worker_image.lm.activations import Activations, Reading
from worker_image.lm.cache import ActivationCache
from worker_image.lm.dataset import open_dataset
from worker_image.lm.model import find_model
from worker_image.memory import MIB
from worker_image.reporter import RunContext


def open_activations(
    params: ReadingParams,
    run: RunContext,
    hookpoints: Iterable[str],
    device: torch.device,
    *,
    least_training: int = 1,
) -> Activations:
    """The activations that ``params`` describe, of which nothing is harvested yet. Cheapest checks first.

    ``least_training``: tokens that have to be left when some are held out.

    Raises:
        UserError: with the parameter at fault.
    """
    dataset = open_dataset(run.inputs.get("dataset", params.dataset), params.text_field, network=params.network)
    dataset.check()
    source = find_model(run.inputs.get("model", params.model), hookpoints, network=params.network)
    run.log(f"reading {dataset.name}")
    return Activations(
        source,
        dataset,
        reading_of(params),
        device=device,
        held_out_tokens=params.held_out_tokens,
        least_training=least_training,
        held_out_seed=params.held_out_seed,
    )


def reading_of(params: ReadingParams) -> Reading:
    """How the model reads the dataset."""
    kept_in = params.activation_dtype if isinstance(params, ActivationParams) else None
    return Reading(
        context_length=params.context_length,
        packing=params.packing,
        bos=params.bos,
        drop_first=params.drop_first_position,
        sequences_per_pass=params.harvest_batch_size,
        model_dtype=params.model_dtype,
        dtype=kept_in or params.model_dtype,
    )


def cache_of(params: ActivationParams, run: RunContext) -> ActivationCache | None:
    """The cache that the run may use, if it wants to."""
    if params.cache == "off" or run.cache is None:
        return None
    return ActivationCache(run.cache, None if run.cache_mb is None else run.cache_mb * MIB)
