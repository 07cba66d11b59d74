"""How well an SAE recovered the features of a world whose directions and firing are known.

Definitions are those of SAELens (``sae_lens.synthetic.evals``), so that figures can be set beside published ones.
The matching needs SciPy, which the ``quality`` extra brings.

Shapes: B tokens, E width decoded, F latents, G features of the world.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from worker_image.sae.metrics import squared_error
from worker_image.sae.model import Sae
from worker_image.sae.worlds import World


def alignment(W_dec_FE: Tensor, directions_GE: Tensor) -> Tensor:
    """Absolute cosine between each latent's decoder and each feature's direction: (F, G)."""
    return (functional.normalize(W_dec_FE) @ functional.normalize(directions_GE).T).abs()


def mean_correlation(alignment_FG: Tensor) -> float:
    """MCC: mean alignment of latents and features matched one to one so that it is largest (arXiv 2505.20254).

    The fewer of the two are all matched; the others do not count.
    """
    from scipy.optimize import linear_sum_assignment

    latents, features = linear_sum_assignment(alignment_FG.cpu().numpy(), maximize=True)
    return alignment_FG[torch.as_tensor(latents), torch.as_tensor(features)].mean().item()


def uniqueness(alignment_FG: Tensor) -> float:
    """Different features among those that the latents align with best, over the number of latents."""
    return alignment_FG.argmax(1).unique().numel() / len(alignment_FG)


class Detection:
    """How well each latent tells when its best-aligned feature fires, counted batch by batch."""

    def __init__(self, alignment_FG: Tensor) -> None:
        self._feature_F = alignment_FG.argmax(1)
        n_latents = len(alignment_FG)
        zeros_F = torch.zeros(n_latents, dtype=torch.int64, device=alignment_FG.device)
        self._both_F, self._latent_F, self._truth_F = zeros_F, zeros_F.clone(), zeros_F.clone()

    def add(self, fires_BF: Tensor, truth_BG: Tensor) -> None:
        """Count a batch: which latents fire, and which features do; both bool."""
        truth_BF = truth_BG[:, self._feature_F]
        self._both_F = self._both_F + (fires_BF & truth_BF).sum(0)
        self._latent_F = self._latent_F + fires_BF.sum(0)
        self._truth_F = self._truth_F + truth_BF.sum(0)

    @property
    def f1(self) -> float:
        """Mean over latents of the harmonic mean of precision and recall; 0 for those that are never right."""
        # 2 both / (latent + truth) is that harmonic mean without its division by 0.
        return (2 * self._both_F / (self._latent_F + self._truth_F).clamp_min(1)).mean().item()

    @property
    def dead_share(self) -> float:
        """Share of the latents that never fired."""
        return (self._latent_F == 0).double().mean().item()


@dataclass(frozen=True)
class Recovery:
    """Scores of one SAE in one world, used as after training."""

    mcc: float
    explained_variance: float
    """1 - FVU."""
    f1: float
    uniqueness: float
    dead_share: float
    """Latents that never fired on the tokens scored."""
    l0: float
    """Latents per token."""
    true_l0: float
    """Features per token."""


@torch.no_grad()
def score(sae: Sae, world: World, tokens: int, seed: int, batch_tokens: int = 4096) -> Recovery:
    """Scores of ``sae`` on fresh tokens of the world that it was trained in; its threshold is calibrated already."""
    alignment_FG = alignment(sae.W_dec_FE, world.directions_GD)
    detection = Detection(alignment_FG)
    generator = world.generator(seed)
    error = square = active = true_active = 0.0
    sum_D = torch.zeros(world.recipe.d_in, dtype=torch.float64, device=world.device)
    for start in range(0, tokens, batch_tokens):
        x_BD, truth_BG = world.sample(min(batch_tokens, tokens - start), generator)
        out = sae(x_BD, deployed=True)
        fires_BF, truth_fires_BG = out.code.dense() > 0, truth_BG > 0
        detection.add(fires_BF, truth_fires_BG)
        error += squared_error(x_BD, out.y_hat_BE).item()
        square += x_BD.double().square().sum().item()
        sum_D += x_BD.double().sum(0)
        active += fires_BF.sum().item()
        true_active += truth_fires_BG.sum().item()
    return Recovery(
        mcc=mean_correlation(alignment_FG),
        explained_variance=1 - error / (square - (sum_D.square().sum() / tokens).item()),
        f1=detection.f1,
        uniqueness=uniqueness(alignment_FG),
        dead_share=detection.dead_share,
        l0=active / tokens,
        true_l0=true_active / tokens,
    )
