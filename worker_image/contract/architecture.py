"""What autoencoder is trained: its family, width, wiring, and how it is kept sparse and alive."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from worker_image.contract.activations import Hookpoint
from worker_image.contract.job_type import BASIC, JobType, group, recommended, when

Family = Literal["topk", "batch_topk", "matryoshka", "jumprelu", "gated", "standard"]
"""How a token's latents are chosen and kept few."""

_COUNTED: list[object] = ["topk", "batch_topk", "matryoshka"]
_PENALISED: list[object] = ["standard", "jumprelu", "gated"]
_GROUP = group("Autoencoder")
_AUXK = when(dead_latents=[None, "auxk"], family=[*_COUNTED, "jumprelu"])


class ArchitectureParams(JobType):
    """The autoencoder. An option that the chosen family does not honour is refused."""

    hookpoint: Hookpoint = Field(default="layers.0", json_schema_extra=BASIC | _GROUP)
    """Place in the model whose activations are learned: "layers.N" is the residual stream after block N whatever the
    architecture calls it, "layers.N.mlp" what its MLP adds, ":in" behind a place what it reads instead."""
    target_hookpoint: Hookpoint | None = Field(default=None, json_schema_extra=_GROUP)
    """Place to predict from hookpoint, which makes a transcoder; hookpoint itself when empty."""
    crosscoder_hookpoints: Annotated[list[Hookpoint], Field(max_length=64)] = Field(
        default_factory=list, json_schema_extra=_GROUP | when(target_hookpoint=[None])
    )
    """Further places that one set of latents reads and reconstructs together with hookpoint: a crosscoder."""
    skip_connection: bool = Field(default=False, json_schema_extra=_GROUP)
    """Add a linear path beside the latents. In a transcoder it is a full matrix; in an autoencoder, where that would
    make reconstruction free, it passes at most skip_share of each input dimension."""
    skip_share: float = Field(
        default=0.25, gt=0, le=0.9, json_schema_extra=_GROUP | when(skip_connection=[True], target_hookpoint=[None])
    )
    """Largest share of an input dimension that an autoencoder's skip connection may pass."""

    family: Family = Field(default="topk", json_schema_extra=BASIC | _GROUP)
    """How latents are chosen: the k largest of each token (topk), of the batch (batch_topk), nested (matryoshka); above
    a learned threshold (jumprelu); by a gate (gated); above 0 with an L1 penalty (standard)."""
    expansion_factor: int = Field(default=8, ge=1, le=256, json_schema_extra=recommended(4, 64) | _GROUP)
    """Latents per input dimension: d_sae = d_in x expansion_factor."""
    k: int = Field(default=32, ge=1, le=4096, json_schema_extra=recommended(16, 128) | _GROUP | when(family=_COUNTED))
    """Latents kept per token (L0), on average over the batch for batch_topk and matryoshka."""
    multi_topk: bool = Field(default=False, json_schema_extra=_GROUP | when(family=["topk"]))
    """Add the reconstruction from 4 k latents with weight 1/8, so that more latents than k can be used later."""
    matryoshka_fractions: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, max_length=32)] = (
        Field(default=[1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32], json_schema_extra=_GROUP | when(family=["matryoshka"]))
    )
    """Shares of the latents that each nested group adds; they sum to 1."""

    sparsity_coefficient: float | None = Field(
        default=None, ge=0, le=1e4, json_schema_extra=recommended(1e-5, 10) | _GROUP | when(family=_PENALISED)
    )
    """Weight of the sparsity loss, summed over latents; the recipe's own when empty."""
    target_l0: float | None = Field(default=None, gt=0, le=65_536, json_schema_extra=_GROUP | when(family=_PENALISED))
    """Active latents per token to aim for: the coefficient is steered towards it (for jumprelu's quadratic recipe it is
    part of the loss). When empty, 32, unless a coefficient is given or the recipe has its own (april_2024, tanh)."""
    sparsity_warmup_fraction: float | None = Field(
        default=None, ge=0, le=1, json_schema_extra=_GROUP | when(family=_PENALISED)
    )
    """Share of training over which the coefficient rises from 0; the recipe's own when empty."""
    l1_recipe: Literal["april_2024", "unit_norm"] = Field(
        default="april_2024", json_schema_extra=_GROUP | when(family=["standard"])
    )
    """april_2024 weighs each latent by its decoder norm, which is free; unit_norm keeps decoder rows at length 1."""
    tied_weights: bool = Field(
        default=False,
        json_schema_extra=_GROUP | when(family=["standard"], l1_recipe=["unit_norm"], target_hookpoint=[None]),
    )
    """Use the decoder as the encoder too."""
    jumprelu_recipe: Literal["quadratic", "tanh"] = Field(
        default="quadratic", json_schema_extra=_GROUP | when(family=["jumprelu"])
    )
    """Sparsity loss: quadratic in the distance of L0 from target_l0, or a tanh penalty ramped over the whole run."""
    jumprelu_bandwidth: float | None = Field(
        default=None, gt=0, le=100, json_schema_extra=_GROUP | when(family=["jumprelu"])
    )
    """Width over which the threshold's gradient is estimated; the recipe's own when empty."""
    jumprelu_threshold: float | None = Field(
        default=None, gt=0, le=100, json_schema_extra=_GROUP | when(family=["jumprelu"])
    )
    """Threshold that every latent starts with; the recipe's own when empty."""

    dead_latents: Literal["auxk", "ghost", "resample", "none"] | None = Field(default=None, json_schema_extra=_GROUP)
    """What is done for dead latents: auxk lets them predict the residual; ghost adds ghost gradients; resample points
    them at badly reconstructed tokens. When empty, auxk where it has a gradient, none for april_2024, else resample."""
    dead_after_tokens: int = Field(default=10_000_000, ge=1, json_schema_extra=_GROUP)
    """A latent is dead, and is helped, after this many training tokens without firing."""
    auxk_alpha: float = Field(default=1 / 32, ge=0, le=10, json_schema_extra=_GROUP | _AUXK)
    """Weight of the AuxK loss."""
    auxk_k: int | None = Field(default=None, ge=1, json_schema_extra=_GROUP | _AUXK)
    """Dead latents used by AuxK; d_in / 2 when empty."""
    resample_every_tokens: int | None = Field(
        default=None, ge=1, json_schema_extra=_GROUP | when(dead_latents=["resample"])
    )
    """Training tokens between resamplings; dead_after_tokens when empty."""

    @model_validator(mode="after")
    def _wiring(self) -> Self:
        places = [self.hookpoint, *self.crosscoder_hookpoints]
        if len(set(places)) < len(places):
            raise ValueError("crosscoder_hookpoints: a hookpoint is named twice; name each one once")
        if self.dead_latents == "auxk" and self.family in ("standard", "gated") and "family" not in self.varied():
            raise ValueError(
                f"dead_latents: auxk does nothing for family {self.family!r}, whose dead latents are 0 at every token; "
                "set it to resample or ghost"
            )
        if self.target_hookpoint == self.hookpoint:
            raise ValueError("target_hookpoint: it is hookpoint itself; leave it out for an autoencoder")
        if self.target_l0 is not None and self.sparsity_coefficient == 0:
            raise ValueError("sparsity_coefficient: 0 can never be steered to target_l0; leave it out or raise it")
        if abs(sum(self.matryoshka_fractions) - 1) > 1e-6:
            raise ValueError(f"matryoshka_fractions: they sum to {sum(self.matryoshka_fractions):g}; let them sum to 1")
        return self
