"""The ``harvest_activations`` job type."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from worker_image.contract.activations import ACTIVATIONS, ActivationParams, Hookpoint
from worker_image.contract.commands import CommandType
from worker_image.contract.job_type import BASIC


class HarvestActivationsParams(ActivationParams):
    """Fill the activation cache, so that jobs on the same model and dataset train without the language model."""

    title: ClassVar[str] = "Harvest activations"
    commands: ClassVar[frozenset[CommandType]] = frozenset({"pause", "stop"})
    resumable: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True

    type: Literal["harvest_activations"] = "harvest_activations"
    hookpoints: Annotated[list[Hookpoint], Field(min_length=1, max_length=64)] = Field(
        default=["layers.0"], json_schema_extra=BASIC | ACTIVATIONS
    )
    """Places in the model whose activations are kept, all in the same passes: "layers.N" is the residual stream after
    block N, "layers.N.mlp" what its MLP adds, ":in" behind a place what it reads instead."""
    cache: Literal["on"] = Field(default="on", json_schema_extra=ACTIVATIONS)
    """The cache is what this job fills."""

    @model_validator(mode="after")
    def _hookpoints_differ(self) -> Self:
        if len(set(self.hookpoints)) < len(self.hookpoints):
            raise ValueError("hookpoints: one is named twice; name each once")
        return self
