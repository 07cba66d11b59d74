"""What a sparse autoencoder is and how it is trained."""

import math
from dataclasses import dataclass
from typing import Literal

Family = Literal["topk", "batch_topk", "matryoshka", "jumprelu", "gated", "standard"]
"""How a token's latents are chosen and kept few."""

WeightsDtype = Literal["float32", "float8_e4m3", "float8_e5m2"]
"""How weight matrices are held while training; FP8 is simulated."""

DEFAULT_TARGET_L0 = 32.0
"""What is aimed for when neither a target nor a coefficient is given and the recipe names none."""

_BASE_LR = {"adam": 2e-4, "adamw": 2e-4, "sgd": 2e-4, "muon": 2e-3, "signum": 5e-3}
"""The rate at 16,384 latents: sparsify's. sgd has no customary one: jobs have to name it."""


@dataclass(frozen=True)
class SaeConfig:
    """One autoencoder, transcoder or crosscoder, and its training. Names are those of the job's parameters."""

    d_in: int
    """Width of what is encoded; of a crosscoder, of all its hookpoints together."""
    d_sae: int
    """Number of latents."""
    k: int = 32
    """Latents kept per token: of each (topk) or on average over the batch (batch_topk, matryoshka)."""
    family: Family = "topk"
    """How latents are chosen."""
    d_out: int | None = None
    """Width of what a transcoder predicts; None for an autoencoder."""
    layers: int = 1
    """Hookpoints of a crosscoder, each ``d_in / layers`` wide."""
    skip_connection: bool = False
    """Whether a linear path runs beside the latents."""
    skip_share: float = 0.25
    """Largest share of an input dimension that an autoencoder's skip connection may pass."""
    multi_topk: bool = False
    """Whether the reconstruction from 4 k latents is learned too, with weight 1/8."""
    matryoshka_fractions: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)
    """Shares of the latents that each nested group adds."""
    sparsity_coefficient: float | None = None
    """Weight of the sparsity loss; the recipe's own when None."""
    target_l0: float | None = None
    """Active latents per token to aim for."""
    sparsity_warmup_fraction: float | None = None
    """Share of training over which the coefficient rises from 0; the recipe's own when None."""
    l1_recipe: Literal["april_2024", "unit_norm"] = "april_2024"
    """Whether the L1 penalty weighs latents by decoder norm, or the norm is held at 1."""
    tied_weights: bool = False
    """Whether the decoder is the encoder too."""
    jumprelu_recipe: Literal["quadratic", "tanh"] = "quadratic"
    """JumpReLU's sparsity loss."""
    jumprelu_bandwidth: float | None = None
    """Width over which the threshold's gradient is estimated; the recipe's own when None."""
    jumprelu_threshold: float | None = None
    """Threshold that every latent starts with; the recipe's own when None."""
    dead_latents: Literal["auxk", "ghost", "resample", "none"] | None = None
    """What is done for dead latents; the recipe's own when None, see ``dead_policy``."""
    dead_after_tokens: int = 10_000_000
    """A latent is dead after this many training tokens without firing."""
    auxk_alpha: float = 1 / 32
    """Weight of the AuxK loss; 0 turns it off."""
    auxk_k: int | None = None
    """Dead latents AuxK uses; d_in / 2 when None."""
    resample_every_tokens: int | None = None
    """Training tokens between resamplings; ``dead_after_tokens`` when None."""
    steps: int = 1000
    """Optimiser steps in all: what the schedules are laid over."""
    batch_size: int = 2048
    """Tokens per optimiser step."""
    optimizer: Literal["adam", "adamw", "sgd", "signum", "muon"] = "adam"
    """Optimiser."""
    momentum: float = 0.95
    """Share of the running average of gradients that a step keeps (signum, muon), or of the last step it adds (sgd)."""
    lr: float | None = None
    """Peak learning rate; the recipe's own when None."""
    beta1: float | None = None
    """Adam's first-moment decay; the recipe's own when None."""
    beta2: float = 0.999
    """Adam's second-moment decay."""
    eps: float = 6.25e-10
    """Adam's denominator floor."""
    weight_decay: float = 0.0
    """Decoupled weight decay, adamw only."""
    lr_schedule: Literal["constant", "linear", "cosine", "exponential"] = "linear"
    """How the rate falls over the last ``decay_fraction`` of training."""
    warmup_steps: int = 0
    """Steps over which the rate rises from 0."""
    decay_fraction: float = 0.2
    """Share of training, at its end, over which the rate falls to 0, unless constant."""
    encoder_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which active latents are looked for."""
    grad_clip: float | None = None
    """Largest gradient norm; not clipped when None."""
    micro_batch_size: int | None = None
    """Tokens differentiated at once; the gradients of a batch are summed over its parts. All of it when None."""
    weights_dtype: WeightsDtype = "float32"
    """How weight matrices are held between steps."""
    nan_patience: int = 10
    """Steps in a row that may be lost, because the loss or a gradient is not finite: they are skipped. None is looked
    at when 0."""
    gradient_statistics_every_steps: int | None = None
    """Steps between looks at the gradients; never when None."""
    seed: int = 0
    """Seed of the initial weights."""

    @property
    def width_out(self) -> int:
        """Width of what is reconstructed or predicted."""
        return self.d_in if self.d_out is None else self.d_out

    @property
    def is_transcoder(self) -> bool:
        """Whether what is predicted is not what is encoded."""
        return self.d_out is not None

    @property
    def is_quadratic(self) -> bool:
        """Whether it is JumpReLU trained towards a target L0 by a quadratic loss."""
        return self.family == "jumprelu" and self.jumprelu_recipe == "quadratic"

    @property
    def peak_lr(self) -> float:
        """The learning rate to start with.

        By default 7e-5 for the quadratic JumpReLU recipe (arXiv 2407.14435), else arXiv 2406.04093's fit of Adam's
        best rate to the width, scaled for other optimisers as sparsify does.
        """
        if self.lr is not None:
            return self.lr
        if self.is_quadratic and self.optimizer in ("adam", "adamw"):
            return 7e-5
        return _BASE_LR[self.optimizer] / math.sqrt(self.d_sae / 2**14)

    @property
    def first_moment_decay(self) -> float:
        """Adam's beta1: by default 0 for the quadratic JumpReLU recipe, else 0.9."""
        return (0.0 if self.is_quadratic else 0.9) if self.beta1 is None else self.beta1

    @property
    def dead_policy(self) -> Literal["auxk", "ghost", "resample", "none"]:
        """What is done for dead latents.

        AuxK needs activations that are above 0 though too small to count, so families that cut at 0 have no use for it:
        there resampling is the rule, except in the April 2024 recipe, which leaves few dead.
        """
        if self.dead_latents is not None:
            return self.dead_latents
        if self.family == "standard":
            return "none" if self.l1_recipe == "april_2024" else "resample"
        return "resample" if self.family == "gated" else "auxk"

    @property
    def aux_k(self) -> int:
        """Dead latents AuxK uses."""
        return max(1, self.d_in // 2) if self.auxk_k is None else self.auxk_k

    @property
    def initial_coefficient(self) -> float:
        """Weight of the sparsity loss that training starts with; 1 for a family that has none.

        Where a controller moves it, the April 2024 recipe starts at a tenth: too little is made up for within a few
        hundred steps, while latents that too much sparsity merged early on do not part again.
        """
        if self.sparsity_coefficient is not None:
            return self.sparsity_coefficient
        april = 5.0 if self.controlled_l0 is None else 0.5
        recipes = {"standard": april if self.l1_recipe == "april_2024" else 1e-3, "gated": 1e-3, "jumprelu": 1.0}
        return recipes.get(self.family, 1.0)

    @property
    def controlled_l0(self) -> float | None:
        """The L0 that a controller holds by moving the coefficient; None where nothing does. The quadratic JumpReLU
        recipe has its target in the loss."""
        if self.family in ("standard", "gated") or (self.family == "jumprelu" and not self.is_quadratic):
            has_own = self.family == "jumprelu" or (self.family == "standard" and self.l1_recipe == "april_2024")
            if self.target_l0 is None and self.sparsity_coefficient is None and not has_own:
                return DEFAULT_TARGET_L0
            return self.target_l0
        return None

    @property
    def coefficient_warmup_steps(self) -> int:
        """Steps over which the weight of the sparsity loss rises: the whole run for JumpReLU's tanh recipe, none for
        its quadratic one, 5 % of the run else (the April 2024 recipe)."""
        share = self.sparsity_warmup_fraction
        if share is None:
            share = 0.05 if self.family != "jumprelu" else 0.0 if self.is_quadratic else 1.0
        return round(share * self.steps)
