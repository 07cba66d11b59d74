"""The ``evaluate_sae`` job type."""

from typing import ClassVar, Literal

from pydantic import Field

from worker_image.contract.activations import TrainedSaeParams
from worker_image.contract.commands import CommandType


class EvaluateSaeParams(TrainedSaeParams):
    """Measure a trained autoencoder on held-out tokens, and what the language model loses with it spliced in.

    A training with the same dataset, held_out_tokens and held_out_seed never read those tokens.
    """

    title: ClassVar[str] = "Evaluate SAE"
    commands: ClassVar[frozenset[CommandType]] = frozenset({"pause", "stop"})
    resumable: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True

    type: Literal["evaluate_sae"] = "evaluate_sae"
    loss_recovered: bool = True
    """Also run the language model with the reconstruction in place of its activations, where it has a head."""
    masked_share: float = Field(default=0.15, gt=0, lt=1)
    """Of a masked language model's tokens, how many it is made to guess."""
