"""What is measured, each thing defined once. Measuring changes nothing.

Shapes: B tokens, D = d_in, F = d_sae, K = k.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from worker_image.sae.model import TopKSae


def squared_error(x_BD: Tensor, y_BD: Tensor) -> Tensor:
    """Sum of squared differences; ``y_BD`` may broadcast."""
    return (x_BD - y_BD).square().sum()


def fvu(x_BD: Tensor, x_hat_BD: Tensor) -> Tensor:
    """Fraction of variance unexplained: sum (x - x_hat)^2 / sum (x - mean x)^2. NaN when ``x_BD`` has no variance."""
    return squared_error(x_BD, x_hat_BD) / squared_error(x_BD, x_BD.mean(0))


def l0(acts_BK: Tensor) -> Tensor:
    """Mean number of latents above 0 per token; at most k."""
    return (acts_BK > 0).sum() / acts_BK.shape[0]


def dead_latents(tokens_since_fired_F: Tensor, tokens_trained: int, dead_after_tokens: int) -> Tensor:
    """Which latents are dead: (F,) bool.

    Dead means not having fired for ``dead_after_tokens`` training tokens or, early in training, for all there were;
    otherwise a run shorter than the limit would report no dead latent whatever its quality.
    """
    return tokens_since_fired_F >= max(1, min(dead_after_tokens, tokens_trained))


@dataclass(frozen=True)
class Evaluation:
    """Quality of an SAE on tokens it was not trained on."""

    fvu: float
    l0: float
    fired: int
    """Latents that fired at least once."""
    tokens: int

    @property
    def explained_variance(self) -> float:
        """1 - FVU."""
        return 1.0 - self.fvu


@torch.no_grad()
def evaluate(sae: TopKSae, x_ND: Tensor, batch_tokens: int) -> Evaluation:
    """Measure ``sae`` on all of ``x_ND``, a batch at a time; sums are kept in float64."""
    mean_D = x_ND.double().mean(0).to(sae.W_dec_FD)
    error = variance = kept = 0.0
    fired_F = torch.zeros(sae.config.d_sae, dtype=torch.bool, device=sae.W_dec_FD.device)
    for x_BD in x_ND.split(batch_tokens):
        x_BD = x_BD.to(sae.W_dec_FD)
        out = sae(x_BD)
        error += squared_error(x_BD, out.x_hat_BD).item()
        variance += squared_error(x_BD, mean_D).item()
        kept += float((out.acts_BK > 0).sum())
        fired_F[out.idx_BK[out.acts_BK > 0]] = True
    tokens = x_ND.shape[0]
    return Evaluation(
        fvu=error / variance if variance else float("nan"), l0=kept / tokens, fired=int(fired_F.sum()), tokens=tokens
    )
