"""What is done for dead latents: AuxK, ghost gradients, or resampling.

Shapes: B tokens, D = d_in, E = width_out, F = d_sae, S dead latents.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from worker_image.sae.metrics import squared_error, total_variance
from worker_image.sae.model import Output, Sae
from worker_image.sae.sparse import affine

_SMALLEST = 1e-6
"""Keeps ratios of norms finite."""

_RESAMPLED_ENCODER_NORM = 0.2
"""Length of a resampled latent's encoder row, as a share of the living ones' mean length, beyond what brings it to the
bar that its family sets."""


def auxk_loss(
    sae: Sae, x_BD: Tensor, y_BE: Tensor, out: Output, dead_S: Tensor, variance: Tensor | None = None
) -> Tensor:
    """How badly the ``aux_k`` strongest dead latents of each token predict what the living ones left over
    (arXiv 2406.04093).

    The residual is detached: dead latents learn from it, living ones are not pulled towards making it easy. With
    fewer dead latents than ``aux_k`` the loss is scaled down in proportion. A NaN (a residual without variance) is 0.
    ``variance``: of the residual of a whole batch, of which this is a part.
    """
    if not len(dead_S):
        return x_BD.new_zeros(())
    residual_BE = (y_BE - out.y_hat_BE).detach()
    pre_BS, W_dec_SE = _dead_rows(sae, x_BD, dead_S)
    aux_k = min(sae.config.aux_k, len(dead_S))
    if aux_k < len(dead_S):
        top_BK, idx_BK = pre_BS.topk(aux_k, dim=1, sorted=False)
        acts_BS = torch.zeros_like(pre_BS).scatter(1, idx_BK, top_BK.relu())
    else:
        acts_BS = pre_BS.relu()
    variance = total_variance(residual_BE) if variance is None else variance
    # Divided by 1 where there is nothing to divide by: even a gradient of 0 makes every weight NaN when it passes
    # through a division by 0. Nothing here makes the host wait for what the device found.
    error = squared_error(residual_BE, acts_BS @ W_dec_SE) / torch.where(variance > 0, variance, 1.0)
    error = torch.where((variance > 0) & error.isfinite(), error, 0.0)
    return error * min(len(dead_S) / sae.config.aux_k, 1.0)


def ghost_loss(sae: Sae, x_BD: Tensor, y_BE: Tensor, out: Output, dead_S: Tensor, reconstruction: Tensor) -> Tensor:
    """Ghost gradients (Anthropic's circuits update of January 2024): dead latents, through an exponential instead of
    their ReLU, predict the residual at half its length.

    The lengths are detached, and the loss is rescaled to be as large as ``reconstruction``, so only its direction
    counts. AuxK serves better; the field has given this one up.
    """
    if not len(dead_S):
        return x_BD.new_zeros(())
    error = ghost_error(sae, x_BD, y_BE, out, dead_S)
    return error * ghost_weight(error, reconstruction)


def ghost_weight(error: Tensor, reconstruction: Tensor) -> Tensor:
    """By what a ``ghost_error`` is multiplied to be as large as ``reconstruction``; detached."""
    return (reconstruction / (error + _SMALLEST)).detach()


def ghost_error(sae: Sae, x_BD: Tensor, y_BE: Tensor, out: Output, dead_S: Tensor) -> Tensor:
    """How far ghosts of the dead latents, at least one, are from the residual: the mean over tokens and dimensions."""
    residual_BE = (y_BE - out.y_hat_BE).detach()
    pre_BS, W_dec_SE = _dead_rows(sae, x_BD, dead_S)
    # Any factor of a token's activations cancels in the scaling below: this one keeps the exponential in range.
    ghost_BE = torch.exp(pre_BS - pre_BS.detach().amax(1, keepdim=True)) @ W_dec_SE
    residual_norm_B1 = residual_BE.norm(dim=1, keepdim=True)
    scale_B1 = residual_norm_B1 / (_SMALLEST + 2 * ghost_BE.detach().norm(dim=1, keepdim=True))
    return ((ghost_BE * scale_B1 - residual_BE).square() / residual_norm_B1.clamp_min(_SMALLEST)).mean()


@torch.no_grad()
def resample(
    sae: Sae, moments: Mapping[str, Mapping[str, Tensor]], x_BD: Tensor, residual_BE: Tensor, dead_S: Tensor, seed: int
) -> None:
    """Point dead latents, at least one, at tokens that are reconstructed badly (Anthropic, Towards Monosemanticity,
    2023).

    Tokens are drawn with probability in proportion to their squared error. The latent decodes to the token's residual
    direction and looks for its input's, strongly enough to be active at that token; its bias, what its family gives it
    besides, and its optimiser moments (``moments``: parameter name -> name -> (F, ...)) start afresh. ``residual_BE``
    is that of the whole batch. The draw depends on ``seed`` alone.
    """
    error_B = residual_BE.square().sum(1).double().cpu()
    if not error_B.isfinite().all() or error_B.sum() == 0:
        return
    generator = torch.Generator().manual_seed(seed)
    drawn_S = torch.multinomial(error_B, len(dead_S), replacement=True, generator=generator).to(x_BD.device)
    W_dec_FE, W_enc_FD = sae.W_dec_FE, sae.encoder_FD
    alive_F = torch.ones(sae.config.d_sae, dtype=torch.bool, device=x_BD.device)
    alive_F[dead_S] = False
    lengths_F = W_enc_FD.norm(dim=1)
    length = lengths_F[alive_F].mean() if alive_F.any() else lengths_F.mean()
    sought_SD = x_BD[drawn_S] - (x_BD.mean(0) if sae.config.is_transcoder else sae.b_dec_E)
    distance_S1 = sought_SD.norm(dim=1, keepdim=True).clamp_min(_SMALLEST)
    if sae.config.tied_weights:
        # What it looks for is what it decodes to, and the residual may point away from the token.
        W_dec_FE[dead_S] = sought_SD / distance_S1 * sae.initial_norm
    else:
        length_S1 = length * _RESAMPLED_ENCODER_NORM + sae.bar(x_BD, drawn_S).unsqueeze(1) / distance_S1
        W_dec_FE[dead_S] = functional.normalize(residual_BE[drawn_S], dim=1) * sae.initial_norm
        W_enc_FD[dead_S] = sought_SD / distance_S1 * length_S1
    sae.restart(dead_S, x_BD)
    for name, parameter in sae.named_parameters():
        if len(parameter) != sae.config.d_sae or name.endswith(("_D", "_E", "_ED")):
            continue
        for moment in moments.get(name, {}).values():
            if moment.shape == parameter.shape:
                moment[dead_S] = 0


def _dead_rows(sae: Sae, x_BD: Tensor, dead_S: Tensor) -> tuple[Tensor, Tensor]:
    """The dead latents' pre-activations (B, S) and decoder rows (S, E), densely.

    Autograd scatters their gradients back; the living latents are not touched.
    """
    W_enc_SD = sae.encoder_FD.index_select(0, dead_S)
    pre_BS = affine(sae.centred(x_BD), W_enc_SD, sae.b_enc_F[dead_S])
    return pre_BS, sae.W_dec_FE.index_select(0, dead_S)
