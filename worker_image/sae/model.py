"""The TopK sparse autoencoder.

Shapes: B tokens, D = d_in, F = d_sae, K = k.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from worker_image.sae.config import SaeConfig
from worker_image.sae.topk import topk_autoencode


class Reconstruction(NamedTuple):
    """What the autoencoder makes of a batch."""

    x_hat_BD: Tensor
    acts_BK: Tensor
    """Kept activations, 0 where fewer than k were above 0."""
    idx_BK: Tensor
    """Latents they belong to."""


class TopKSae(nn.Module):
    """x_hat = W_dec^T ReLU(TopK(W_enc (x - b_dec) + b_enc)) + b_dec.

    Both weight matrices are stored latent by latent, (F, D), because training reads and writes whole latents.
    """

    def __init__(self, config: SaeConfig, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.config = config
        # Drawn on the CPU, so that one seed gives the same weights on every device.
        generator = torch.Generator().manual_seed(config.seed)
        directions_FD = torch.randn(config.d_sae, config.d_in, generator=generator).to(device)
        directions_FD /= directions_FD.norm(dim=1, keepdim=True)
        self.W_dec_FD = nn.Parameter(directions_FD)
        self.W_enc_FD = nn.Parameter(directions_FD.clone())
        self.b_enc_F = nn.Parameter(torch.zeros(config.d_sae, device=device))
        self.b_dec_D = nn.Parameter(torch.zeros(config.d_in, device=device))

    def forward(self, x_BD: Tensor) -> Reconstruction:
        x_hat_BD, acts_BK, idx_BK = topk_autoencode(
            x_BD - self.b_dec_D, self.W_enc_FD, self.b_enc_F, self.W_dec_FD, self.config.k
        )
        return Reconstruction(x_hat_BD + self.b_dec_D, acts_BK, idx_BK)

    @torch.no_grad()
    def centre(self, x_BD: Tensor) -> None:
        """Start ``b_dec`` at the geometric median of a sample of activations."""
        self.b_dec_D.copy_(geometric_median(x_BD.to(self.b_dec_D)))

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Scale every decoder row to length 1."""
        self.W_dec_FD /= self.W_dec_FD.norm(dim=1, keepdim=True).clamp_min(torch.finfo(self.W_dec_FD.dtype).eps)

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Take out of the decoder's gradient the part along each row, which normalising would undo after the step
        yet Adam would carry in its moments."""
        grad_FD = self.W_dec_FD.grad
        if grad_FD is not None:
            along_F1 = (grad_FD * self.W_dec_FD).sum(dim=1, keepdim=True)
            grad_FD.addcmul_(along_F1, self.W_dec_FD, value=-1)


def geometric_median(x_BD: Tensor, iterations: int = 50, tolerance: float = 1e-5) -> Tensor:
    """The point with the least summed distance to the rows, by Weiszfeld's iteration from their mean: (D,).

    Stops when a step is shorter than ``tolerance`` times the mean distance.
    """
    median_D = x_BD.mean(0)
    for _ in range(iterations):
        distance_B = (x_BD - median_D).norm(dim=1).clamp_min(1e-8)
        weight_B = 1 / distance_B
        moved_D = (weight_B @ x_BD) / weight_B.sum()
        if (moved_D - median_D).norm() <= tolerance * distance_B.mean():
            return moved_D
        median_D = moved_D
    return median_D
