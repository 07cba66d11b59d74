"""What a sparse autoencoder is and how it is trained."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SaeConfig:
    """One TopK sparse autoencoder and its training, after arXiv 2406.04093."""

    d_in: int
    """Width of the activations."""
    d_sae: int
    """Number of latents."""
    k: int
    """Latents kept per token."""
    auxk_alpha: float = 1 / 32
    """Weight of the AuxK loss; 0 turns it off."""
    auxk_k: int | None = None
    """Dead latents AuxK uses; d_in / 2 when None."""
    dead_after_tokens: int = 10_000_000
    """A latent is dead after this many training tokens without firing."""
    steps: int = 1000
    """Optimiser steps in all: what the schedule is laid over."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Optimiser."""
    lr: float | None = None
    """Peak learning rate; 2e-4 / sqrt(d_sae / 2**14) when None."""
    beta1: float = 0.9
    """Adam's first-moment decay."""
    beta2: float = 0.999
    """Adam's second-moment decay."""
    eps: float = 6.25e-10
    """Adam's denominator floor."""
    weight_decay: float = 0.0
    """Decoupled weight decay, adamw only."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the rate falls over the last ``decay_fraction`` of training."""
    warmup_steps: int = 0
    """Steps over which the rate rises from 0."""
    decay_fraction: float = 0.2
    """Share of training, at its end, over which the rate falls to 0, unless constant."""
    grad_clip: float | None = None
    """Largest gradient norm; not clipped when None."""
    seed: int = 0
    """Seed of the initial weights."""

    @property
    def peak_lr(self) -> float:
        """The learning rate to start with. The default is the paper's fit of Adam's best rate to the width."""
        return 2e-4 / math.sqrt(self.d_sae / 2**14) if self.lr is None else self.lr

    @property
    def aux_k(self) -> int:
        """Dead latents AuxK uses."""
        return max(1, self.d_in // 2) if self.auxk_k is None else self.auxk_k

    @property
    def training_bytes(self) -> int:
        """Memory of the float32 weights, their gradients and Adam's two moments."""
        parameters = 2 * self.d_sae * self.d_in + self.d_sae + self.d_in
        return parameters * 4 * 4
