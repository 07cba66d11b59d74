"""Measuring an autoencoder on tokens it was not trained on. Measuring changes nothing.

Shapes: B tokens of a batch, N tokens in all, D = d_in, E = width_out, F = d_sae.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from worker_image.sae.losses import Coefficients, loss_of, survey
from worker_image.sae.metrics import density_shares, squared_error
from worker_image.sae.model import Sae
from worker_image.sae.whole_batch import Part, WholeBatch, cut

DENSE_SHARE = 0.1
"""A latent that fires for more than this share of tokens is dense."""


@dataclass(frozen=True)
class Evaluation:
    """Quality of an autoencoder on held-out tokens."""

    fvu: float
    """Sum of squared errors over that from the mean of all tokens."""
    l0: float
    """Mean number of active latents per token."""
    firings_F: Tensor
    """For how many tokens each latent was active: int64, on the CPU."""
    tokens: int
    loss: float | None = None
    """What training minimises, dead latents left alone; None where no weights were given."""
    is_finite: bool = True
    """Whether each reconstruction was, as far as the tokens are."""

    @property
    def explained_variance(self) -> float:
        """1 - FVU."""
        return 1.0 - self.fvu

    def values(self) -> dict[str, float]:
        """Metric name -> value."""
        found = {
            "fvu": self.fvu,
            "explained_variance": self.explained_variance,
            "l0": self.l0,
            "l0_share": self.l0 / len(self.firings_F),
            "dead_share": 1.0 - self.fired / len(self.firings_F),
            "dense_share": self.dense_share,
        }
        return found if self.loss is None else found | {"loss": self.loss}

    @property
    def fired(self) -> int:
        """Latents that fired at least once."""
        return int((self.firings_F > 0).sum())

    @property
    def densities(self) -> dict[float, float]:
        """Power of ten -> share of latents; see ``density_shares``."""
        return density_shares(self.firings_F, self.tokens)

    @property
    def dense_share(self) -> float:
        """Share of latents that fire for more than ``DENSE_SHARE`` of tokens."""
        return float((self.firings_F > DENSE_SHARE * self.tokens).double().mean())


@torch.no_grad()
def parts_of(sae: Sae, x_BD: Tensor, y_BE: Tensor, at_once: int | None = None, *, deployed: bool = False) -> list[Part]:
    """A batch as parts of at most ``at_once`` tokens, that choose the latents which the whole batch does."""
    if at_once is None or at_once >= len(x_BD):
        return [Part(x_BD, y_BE)]
    return cut(x_BD, y_BE, at_once, None if deployed else sae.choose(sae.centred(x_BD)))


@torch.no_grad()
def evaluate(
    sae: Sae,
    x_ND: Tensor,
    batch_tokens: int,
    y_NE: Tensor | None = None,
    *,
    deployed: bool = False,
    weights: Coefficients | None = None,
    at_once: int | None = None,
) -> Evaluation:
    """Measure ``sae`` on all of ``x_ND``, a batch at a time; sums are kept in float64.

    ``at_once``: most tokens of a batch that are in memory together, with the same result; all of it when None.

    ``y_NE``: what a transcoder is to predict. ``deployed``: as the autoencoder is used after training.
    ``weights``: those of the loss's parts, at their full height, where the loss is to be measured too.
    """
    target_NE = x_ND if y_NE is None else y_NE
    like = sae.b_dec_E
    mean_E = target_NE.double().mean(0).to(like)
    error = variance = active = loss = 0.0
    none_dead = torch.empty(0, dtype=torch.int64, device=like.device)
    firings_F = torch.zeros(sae.config.d_sae, dtype=torch.int64)
    batches: Iterable[tuple[Tensor, Tensor]] = zip(x_ND.split(batch_tokens), target_NE.split(batch_tokens), strict=True)
    for x_BD, y_BE in batches:
        x_BD, y_BE = x_BD.to(like), y_BE.to(like)
        parts = parts_of(sae, x_BD, y_BE, at_once, deployed=deployed)
        if weights is not None:
            whole = WholeBatch(y_BE) if len(parts) == 1 else survey(sae, y_BE, parts, none_dead, weights)
        for part in parts:
            out = sae(part.x_BD, deployed=deployed, chosen=part.chosen)
            error += squared_error(part.y_BE, out.y_hat_BE).item()
            variance += squared_error(part.y_BE, mean_E).item()
            active += float(out.code.n_active)
            firings_F += out.code.firings_F.cpu()
            if weights is not None:
                share = loss_of(sae, part.x_BD, part.y_BE, out, none_dead, weights, whole).total.item()
                loss += share * len(x_BD)
    tokens = x_ND.shape[0]
    return Evaluation(
        fvu=error / variance if variance else float("nan"),
        l0=active / tokens,
        firings_F=firings_F,
        tokens=tokens,
        loss=None if weights is None else loss / tokens,
        is_finite=math.isfinite(error) or not math.isfinite(variance),
    )
