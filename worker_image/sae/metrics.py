"""What is measured, each thing defined once. Measuring changes nothing.

Shapes: B tokens, D width, F = d_sae.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

DENSITY_BINS = tuple(exponent / 2 for exponent in range(-12, 0))
"""Lower edges of the bins that densities are counted in, as powers of ten: -6 to -0.5."""


def squared_error(x_BD: Tensor, y_BD: Tensor) -> Tensor:
    """Sum of squared differences; ``y_BD`` may broadcast."""
    # One pass forwards and one backwards, where the three operations spelt out make five.
    return functional.mse_loss(x_BD, y_BD.expand_as(x_BD), reduction="sum")


def total_variance(x_BD: Tensor) -> Tensor:
    """Sum of squared distances from the mean token."""
    return squared_error(x_BD, x_BD.mean(0))


def fvu(x_BD: Tensor, x_hat_BD: Tensor, variance: Tensor | None = None) -> Tensor:
    """Fraction of variance unexplained: sum (x - x_hat)^2 / sum (x - mean x)^2. NaN when ``x_BD`` has no variance.

    ``variance``: the total of a batch of which ``x_BD`` is a part, whose contribution to that batch's FVU this is then.
    """
    return squared_error(x_BD, x_hat_BD) / (total_variance(x_BD) if variance is None else variance)


def dead_latents(tokens_since_fired_F: Tensor, tokens_trained: int, dead_after_tokens: int) -> Tensor:
    """Which latents are dead: (F,) bool.

    Dead means not having fired for ``dead_after_tokens`` training tokens or, early in training, for all there were;
    otherwise a run shorter than the limit would report no dead latent whatever its quality.
    """
    return tokens_since_fired_F >= max(1, min(dead_after_tokens, tokens_trained))


def cosine_similarity(y_BE: Tensor, y_hat_BE: Tensor) -> Tensor:
    """Cosine of the angle between each token's activation and its reconstruction: (B,)."""
    return torch.cosine_similarity(y_BE, y_hat_BE, dim=1)


def l2_ratio(y_BE: Tensor, y_hat_BE: Tensor) -> Tensor:
    """How long each token's reconstruction is for its activation: (B,). Below 1 where it shrinks."""
    return y_hat_BE.norm(dim=1) / y_BE.norm(dim=1).clamp_min(torch.finfo(y_BE.dtype).tiny)


def density_shares(firings_F: Tensor, tokens: int) -> dict[float, float]:
    """Lower edge of each bin of ``DENSITY_BINS`` -> the share of latents whose density lies in it.

    A latent's density is the share of tokens that it fires for. The first bin takes what is rarer too; latents that
    never fired are in none.
    """
    exponent_N = (firings_F[firings_F > 0].double() / max(tokens, 1)).log10()
    bin_N = (exponent_N * 2).floor().clamp(DENSITY_BINS[0] * 2, DENSITY_BINS[-1] * 2)
    return {edge: int((bin_N == edge * 2).sum()) / len(firings_F) for edge in DENSITY_BINS}


def loss_recovered(clean: float, spliced: float, ablated: float) -> float:
    """How much of what ablating costs is saved by the reconstruction: (ablated - spliced) / (ablated - clean).

    1 when nothing is lost, 0 when it is no better than ablating; NaN when ablating costs nothing.
    """
    return (ablated - spliced) / (ablated - clean) if ablated != clean else math.nan
