"""How an autoencoder is optimised: steps, batch, optimiser, schedule."""

from typing import Literal, Self

from pydantic import Field, model_validator

from worker_image.contract.job_type import BASIC, JobType, group, recommended, when

_GROUP = group("Optimisation")
_ADAM = when(optimizer=["adam", "adamw", "muon"])


class OptimisationParams(JobType):
    """The loop's parameters."""

    steps: int = Field(default=1000, ge=1, le=100_000_000, json_schema_extra=BASIC | _GROUP)
    """Optimiser steps."""
    batch_size: int = Field(default=2048, ge=1, le=1_048_576, json_schema_extra=recommended(64, 16384) | _GROUP)
    """Tokens per optimiser step."""
    optimizer: Literal["adam", "adamw", "sgd", "signum", "muon"] = Field(default="adam", json_schema_extra=_GROUP)
    """Optimiser. muon orthogonalises the steps of matrices and leaves the rest to Adam."""
    lr: float | None = Field(default=None, ge=1e-6, le=0.1, json_schema_extra=recommended(1e-5, 1e-2) | _GROUP)
    """Peak learning rate; when empty, the family's recipe's own, for most 2e-4 / sqrt(d_sae / 16384). sgd has none."""
    beta1: float | None = Field(default=None, ge=0, lt=1, json_schema_extra=_GROUP | _ADAM)
    """Adam's first-moment decay; the recipe's own when empty, 0.9 for most."""
    beta2: float = Field(default=0.999, ge=0, lt=1, json_schema_extra=_GROUP | _ADAM)
    """Adam's second-moment decay."""
    eps: float = Field(default=6.25e-10, gt=0, le=1e-2, json_schema_extra=_GROUP | _ADAM)
    """Adam's denominator floor."""
    momentum: float = Field(
        default=0.95, ge=0, lt=1, json_schema_extra=_GROUP | when(optimizer=["sgd", "signum", "muon"])
    )
    """Share of the running average of gradients that a step keeps (signum, muon); for sgd, share of the last step that
    is added to the next, so that steps in one direction grow to 1 / (1 - momentum) of the gradient's."""
    weight_decay: float = Field(default=0.0, ge=0, le=1, json_schema_extra=_GROUP | when(optimizer=["adamw"]))
    """Decoupled weight decay."""
    lr_schedule: Literal["constant", "linear", "cosine", "exponential"] = Field(
        default="linear", json_schema_extra=_GROUP
    )
    """How the learning rate falls over the last decay_fraction of training."""
    warmup_steps: int = Field(default=0, ge=0, json_schema_extra=_GROUP)
    """Steps over which the learning rate rises from 0."""
    decay_fraction: float = Field(default=0.2, ge=0, le=1, json_schema_extra=_GROUP)
    """Share of training, at its end, over which the learning rate falls to 0 (unless constant)."""
    encoder_dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", json_schema_extra=_GROUP)
    """Type of the product that looks for each token's active latents, the dearest part of a step. bfloat16 is faster on
    GPUs and on CPUs that multiply it; float16 on GPUs that do not (V100, T4), and a little more exact. Weights, their
    gradients and the optimiser stay float32 either way."""
    grad_clip: float | None = Field(default=None, gt=0, json_schema_extra=_GROUP)
    """Largest gradient norm; not clipped when empty."""

    micro_batch_size: int | None = Field(default=None, ge=1, json_schema_extra=_GROUP)
    """Tokens differentiated at once; a batch of more is taken in parts and makes the same step, but for rounding. Out
    of GPU memory it is halved, up to three times. All of the batch when empty."""
    weights_dtype: Literal["float32", "float8_e4m3", "float8_e5m2"] = Field(default="float32", json_schema_extra=_GROUP)
    """Hold weight matrices as FP8 would, simulated: the optimiser moves float32 masters, products see them rounded.
    bit_stall_share tells how many weights moved too little to change a bit."""
    nan_patience: int = Field(default=10, ge=0, le=1000, json_schema_extra=_GROUP)
    """Steps in a row that may be lost, because the loss or a gradient is not finite: they are skipped. One more, and
    training ends. Every step is looked at, for which a GPU has to be waited for; with 0 only those that are reported
    are, and the first that is lost ends training."""
    gradient_statistics_every_steps: int | None = Field(default=None, ge=1, json_schema_extra=_GROUP)
    """Steps between looks at each parameter's gradient (norms, dead share, signal to noise, cosine with the step
    before); none when empty."""

    @model_validator(mode="after")
    def _rate_is_known(self) -> Self:
        if self.optimizer == "sgd" and self.lr is None and not {"lr", "optimizer"} & self.varied():
            raise ValueError("lr: optimizer 'sgd' has no customary rate; set one")
        return self

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps: {self.warmup_steps} exceeds steps ({self.steps}); lower it")
        return self
