"""What training minimises: L = FVU(x, x_hat) + alpha * AuxK, after arXiv 2406.04093.

Shapes: B tokens, D = d_in, F = d_sae, K = k, S = dead latents.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from worker_image.sae.metrics import fvu
from worker_image.sae.model import Reconstruction, TopKSae


class Loss(NamedTuple):
    """The loss and its parts."""

    total: Tensor
    reconstruction: Tensor
    """FVU of the batch."""
    auxk: Tensor
    """AuxK before its weight; 0 when no latent is dead."""


def loss_of(sae: TopKSae, x_BD: Tensor, out: Reconstruction, dead_S: Tensor) -> Loss:
    """The loss of one batch. ``dead_S`` are the indices of the dead latents, possibly none."""
    reconstruction = fvu(x_BD, out.x_hat_BD)
    auxk = auxk_loss(sae, x_BD, out, dead_S) if sae.config.auxk_alpha else x_BD.new_zeros(())
    return Loss(reconstruction + sae.config.auxk_alpha * auxk, reconstruction, auxk)


def auxk_loss(sae: TopKSae, x_BD: Tensor, out: Reconstruction, dead_S: Tensor) -> Tensor:
    """How badly the ``aux_k`` strongest dead latents of each token predict what the living ones left over.

    The residual is detached: dead latents learn from it, living ones are not pulled towards making it easy. With
    fewer dead latents than ``aux_k`` the loss is scaled down in proportion. A NaN (a residual without variance) is 0.
    """
    if not len(dead_S):
        return x_BD.new_zeros(())
    residual_BD = (x_BD - out.x_hat_BD).detach()
    # The dead rows alone, densely: autograd scatters their gradients back, the living latents are not touched.
    W_enc_SD, W_dec_SD = sae.W_enc_FD.index_select(0, dead_S), sae.W_dec_FD.index_select(0, dead_S)
    pre_BS = functional.linear(x_BD - sae.b_dec_D, W_enc_SD, sae.b_enc_F[dead_S])
    aux_k = min(sae.config.aux_k, len(dead_S))
    if aux_k < len(dead_S):
        top_BK, idx_BK = pre_BS.topk(aux_k, dim=1, sorted=False)
        acts_BS = torch.zeros_like(pre_BS).scatter(1, idx_BK, top_BK.relu())
    else:
        acts_BS = pre_BS.relu()
    error = fvu(residual_BD, acts_BS @ W_dec_SD)
    # Not nan_to_num: its gradient would still pass through the division by zero and make every weight NaN.
    return error * min(len(dead_S) / sae.config.aux_k, 1.0) if error.isfinite() else x_BD.new_zeros(())
