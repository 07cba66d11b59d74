"""TopK: the k largest pre-activations of each token (arXiv 2406.04093).

Shapes: B tokens, D = d_in, E = width_out, F = d_sae, N active positions.
"""

import torch
from torch import Tensor

from worker_image.sae.code import Code, Places
from worker_image.sae.metrics import fvu
from worker_image.sae.model import FamilyLoss, Output, Sae
from worker_image.sae.sparse import pre_at, select_topk

_MULTI = 4
"""Multi-TopK learns the reconstruction from this many times k latents too, ..."""
_MULTI_WEIGHT = 1 / 8
"""... with this weight."""


class TopKSae(Sae):
    """acts = ReLU(TopK(W_enc (x - b_dec) + b_enc))."""

    def encode(self, x_BD: Tensor, *, deployed: bool = False) -> Code:
        return self._largest(x_BD, self.config.k, self.selecting_FD(deployed=deployed))

    def losses(self, x_BD: Tensor, y_BE: Tensor, out: Output, dead_S: Tensor) -> FamilyLoss:
        reconstruction = fvu(y_BE, out.y_hat_BE)
        if not self.config.multi_topk:
            return FamilyLoss(reconstruction)
        code = self._largest(self.centred(x_BD), min(_MULTI * self.config.k, self.config.d_sae), self.selecting_FD())
        y_hat_BE = self.complete(x_BD, code.decode(self.W_dec_FE))
        return FamilyLoss(reconstruction, extra=_MULTI_WEIGHT * fvu(y_BE, y_hat_BE))

    def _largest(self, x_BD: Tensor, k: int, selecting_FD: Tensor) -> Code:
        pattern, found_N = select_topk(x_BD, selecting_FD, self.b_enc_F, k)
        pre_N = pre_at(x_BD, self.encoder_FD, self.b_enc_F, pattern, found_N)
        return Code(torch.relu(pre_N), pre_N, Places((len(x_BD), self.config.d_sae), pattern))
