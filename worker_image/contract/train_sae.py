"""The ``train_sae`` job type."""

from itertools import product
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from worker_image.contract.activations import ACTIVATIONS, ActivationParams
from worker_image.contract.architecture import ArchitectureParams
from worker_image.contract.commands import CommandType
from worker_image.contract.job_type import group, recommended
from worker_image.contract.optimisation import OptimisationParams
from worker_image.contract.retention import RetentionPolicy
from worker_image.contract.tracking import TrackingParams

MOST_SAES = 64
"""Most autoencoders that one job trains."""

_SHARED = {"hookpoint", "target_hookpoint", "crosscoder_hookpoints", "steps", "batch_size"}
"""What all autoencoders of a job have in common, for they learn from the same batches."""

GRID_FIELDS = frozenset(
    (ArchitectureParams.model_fields.keys() | OptimisationParams.model_fields.keys() | {"seed"})
    - {"type", "network"}
    - _SHARED
)
"""What may differ between the autoencoders of a job."""

ExportFormat = Literal["auto", "saelens", "sparsify", "dictionary_learning"]

GridValue = str | bool | int | float | None


class TrainSaeParams(TrackingParams, OptimisationParams, ArchitectureParams, ActivationParams):
    """Train sparse autoencoders, transcoders or crosscoders on the activations of a language model.

    The default is TopK with AuxK after arXiv 2406.04093: normalised reconstruction error plus a loss that lets dead
    latents predict the residual.
    """

    title: ClassVar[str] = "Train SAE"
    commands: ClassVar[frozenset[CommandType]] = frozenset(
        {"pause", "stop", "checkpoint", "set_learning_rate", "set_parameters", "validate"}
    )
    live: ClassVar[frozenset[str]] = frozenset(
        {
            "lr",
            "grad_clip",
            "sparsity_coefficient",
            "target_l0",
            "auxk_alpha",
            "log_every_steps",
            "checkpoint_every_steps",
            "checkpoint_every_minutes",
            "keep_checkpoints",
            "keep_every_steps",
            "keep_every_at_most",
        }
    )
    resumable: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True

    type: Literal["train_sae"] = "train_sae"

    grid: dict[str, Annotated[list[GridValue], Field(min_length=1, max_length=MOST_SAES)]] = Field(
        default_factory=dict, json_schema_extra=group("Several at once")
    )
    """Train one autoencoder for each combination of these values, all on the same activations: e.g.
    {"k": [16, 32, 64], "expansion_factor": [8, 16]} trains six."""
    buffer_tokens: int = Field(default=524_288, ge=1, json_schema_extra=ACTIVATIONS)
    """Activations shuffled together. Without the cache so many are held in memory, and harvested only once when every
    training token fits."""
    prefetch: Literal["auto", "on", "off"] = Field(default="auto", json_schema_extra=ACTIVATIONS)
    """Get the next activations ready on another thread while training goes on, which takes memory for them; auto does
    on a GPU. The result is the same."""
    normalisation: Literal["none", "mean_norm", "unit_mean_square", "standardise"] = Field(
        default="none", json_schema_extra=ACTIVATIONS
    )
    """Scale the activations of each hookpoint before training: to a mean norm of sqrt(d_in), to a mean square of 1, or
    that after their mean is taken off. It is folded into exported weights, which read raw activations."""
    log_every_steps: int = Field(default=10, ge=1, json_schema_extra=recommended(1, 100))
    """Steps between metrics."""
    checkpoint_every_steps: int | None = Field(default=1000, ge=1, json_schema_extra=recommended(100, 10_000))
    """Steps between checkpoints; none while training when empty (pause, stop and completion always write one)."""
    checkpoint_every_minutes: float | None = Field(default=None, gt=0, le=10_080)
    """Minutes between checkpoints, besides those by steps; only by steps when empty."""
    keep_checkpoints: int = Field(default=3, ge=1, le=1000)
    """Newest checkpoints kept, besides the first, the best on held-out tokens, and those of keep_every_steps."""
    keep_every_steps: int | None = Field(default=1000, ge=1)
    """Keep checkpoints whose step is a multiple of this; none for its step when empty."""
    keep_every_at_most: int = Field(default=10, ge=1, le=1000)
    """So many of those, besides what is kept anyway: where there are more, only those at multiples of twice as many
    steps stay, or of four times, and so on."""
    export_formats: Annotated[list[ExportFormat], Field(max_length=4)] = Field(default=["auto"])
    """Formats of other libraries that the autoencoder is written in beside our own, each in a folder of its own; auto
    is SAELens, or sparsify where SAELens cannot express it. Any can be made later with saeforge convert."""

    @model_validator(mode="after")
    def _buffer_holds_a_batch(self) -> Self:
        if self.buffer_tokens < self.batch_size:
            raise ValueError(
                f"buffer_tokens: {self.buffer_tokens} is less than one batch ({self.batch_size}); raise it"
            )
        return self

    @model_validator(mode="after")
    def _grid_is_possible(self) -> Self:
        if unknown := sorted(self.grid.keys() - GRID_FIELDS):
            raise ValueError(f"grid: {unknown[0]!r} cannot differ within a job; use one of {sorted(GRID_FIELDS)}")
        count = 1
        for values in self.grid.values():
            count *= len(values)
        if count > MOST_SAES:
            raise ValueError(f"grid: it makes {count} autoencoders, more than {MOST_SAES}; submit a sweep instead")
        self.variants()
        return self

    @model_validator(mode="after")
    def _formats_can_express(self) -> Self:
        if self.grid:
            return self  # each of its variants is looked at by itself
        transcodes = self.target_hookpoint is not None
        cannot = {
            "saelens": (transcodes or self.skip_connection) and self.family in ("topk", "gated"),
            "sparsify": self.family != "topk",
            "dictionary_learning": transcodes or self.skip_connection,
        }
        if refused := next((name for name in self.export_formats if cannot.get(name)), None):
            kind = "transcoders" if transcodes else "autoencoders"
            having = " with a skip connection" if self.skip_connection else ""
            raise ValueError(f"export_formats: {refused} has no {self.family} {kind}{having}; leave it out")
        return self

    @property
    def retention(self) -> RetentionPolicy:
        """Which checkpoints stay."""
        return RetentionPolicy(self.keep_checkpoints, self.keep_every_steps, self.keep_every_at_most)

    @property
    def hookpoints(self) -> list[str]:
        """All places that are read, those that are encoded first and side by side."""
        targets = [] if self.target_hookpoint is None else [self.target_hookpoint]
        return [self.hookpoint, *self.crosscoder_hookpoints, *targets]

    def variants(self) -> list["TrainSaeParams"]:
        """The parameters of each autoencoder, without a grid; one when there is none. The last field varies fastest.

        Of combinations that differ only in what one of them does not honour, one is left.

        Raises:
            pydantic.ValidationError: a combination cannot work.
        """
        if not self.grid:
            return [self]
        alone = self.model_dump(exclude={"grid"})
        made = []
        for values in product(*self.grid.values()):
            combined = alone | dict(zip(self.grid, values, strict=True))
            # Set beside the grid for those it applies to; the others go without.
            for name, needed in self.conditions().items():
                if any(combined[other] not in needed[other] for other in needed.keys() & self.grid.keys()):
                    del combined[name]
            variant = TrainSaeParams.model_validate(combined)
            if variant not in made:
                made.append(variant)
        return made

    def varied(self) -> frozenset[str]:
        return frozenset(self.grid)

    def label(self, variant: "TrainSaeParams") -> str:
        """What tells ``variant`` from the others: "k=32 lr=0.001"; empty when it is the only one."""
        return " ".join(f"{name}={getattr(variant, name)}" for name in self.grid)
