"""The whole loss of every family as its paper writes it: dense, in autograd's own operations, term by term.

Slow and simple on purpose: what the sparse code is tested against.
"""

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from worker_image.sae.metrics import fvu
from worker_image.sae.model import Sae


class Plain(NamedTuple):
    reconstruction: Tensor
    y_hat: Tensor
    further: Tensor | float = 0.0
    """The family's other terms, weighted."""


def plain_loss(sae: Sae, x: Tensor, y: Tensor, dead: Tensor, coefficient: float) -> Tensor:
    """Reconstruction, sparsity times its coefficient, the family's own term, and what is done for ``dead``."""
    family = {
        "topk": _topk,
        "batch_topk": _batch_topk,
        "matryoshka": _matryoshka,
        "jumprelu": _jumprelu,
        "gated": _gated,
        "standard": _standard,
    }[sae.config.family]
    found = family(sae, x, y, dead, coefficient)
    loss = found.reconstruction + found.further
    if not len(dead):
        return loss
    residual = (y - found.y_hat).detach()
    if sae.config.dead_policy == "auxk":
        return loss + sae.config.auxk_alpha * _auxk(sae, x, residual, dead)
    if sae.config.dead_policy == "ghost":
        return loss + _ghost(sae, x, residual, dead, found.reconstruction)
    return loss


def pre_activations(sae: Sae, x: Tensor) -> Tensor:
    read = x if sae.config.is_transcoder else x - sae.b_dec_E
    return functional.linear(read, sae.encoder_FD, sae.b_enc_F)


def complete(sae: Sae, x: Tensor, decoded: Tensor) -> Tensor:
    y_hat = decoded + sae.b_dec_E
    if sae.config.skip_connection and sae.config.is_transcoder:
        return y_hat + x @ sae.W_skip_ED.T
    if sae.config.skip_connection:
        return y_hat + sae.config.skip_share * torch.tanh(sae.skip_gate_D) * (x - sae.b_dec_E)
    return y_hat


def largest(pre: Tensor, k: int) -> Tensor:
    top, idx = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, idx, top.relu())


def _topk(sae: Sae, x: Tensor, y: Tensor, dead: Tensor, coefficient: float) -> Plain:
    pre = pre_activations(sae, x)
    y_hat = complete(sae, x, largest(pre, sae.config.k) @ sae.W_dec_FE)
    if not sae.config.multi_topk:
        return Plain(fvu(y, y_hat), y_hat)
    of_more = complete(sae, x, largest(pre, 4 * sae.config.k) @ sae.W_dec_FE)
    return Plain(fvu(y, y_hat), y_hat, fvu(y, of_more) / 8)


def _largest_of_batch(sae: Sae, x: Tensor) -> Tensor:
    pre = pre_activations(sae, x)
    top, idx = pre.flatten().topk(sae.config.k * len(x))
    return torch.zeros_like(pre.flatten()).scatter(0, idx, top.relu()).view_as(pre)


def _batch_topk(sae: Sae, x: Tensor, y: Tensor, dead: Tensor, coefficient: float) -> Plain:
    y_hat = complete(sae, x, _largest_of_batch(sae, x) @ sae.W_dec_FE)
    return Plain(fvu(y, y_hat), y_hat)


def _matryoshka(sae: Sae, x: Tensor, y: Tensor, dead: Tensor, coefficient: float) -> Plain:
    acts = _largest_of_batch(sae, x)
    ends = [round(share * sae.config.d_sae) for share in accumulate(sae.config.matryoshka_fractions)]
    prefixes = [complete(sae, x, acts[:, :end] @ sae.W_dec_FE[:end]) for end in ends]
    return Plain(torch.stack([fvu(y, prefix) for prefix in prefixes]).mean(), prefixes[-1])


def _standard(sae: Sae, x: Tensor, y: Tensor, dead: Tensor, coefficient: float) -> Plain:
    acts = pre_activations(sae, x).relu()
    y_hat = complete(sae, x, acts @ sae.W_dec_FE)
    free = sae.config.l1_recipe == "april_2024"
    unit = (sae.config.width_out**0.5 if free else 1.0) / output_norm(sae, y)
    penalised = acts * block_norms(sae) if free or sae.config.is_transcoder else acts
    error = ((y - y_hat) * unit).square().sum(1).mean()
    return Plain(error, y_hat, coefficient * (penalised * unit).sum(1).mean())


def _gated(sae: Sae, x: Tensor, y: Tensor, dead: Tensor, coefficient: float) -> Plain:
    gate = pre_activations(sae, x)
    magnitude = (gate - sae.b_enc_F) * sae.r_mag_F.exp() + sae.b_mag_F
    y_hat = complete(sae, x, (gate > 0) * magnitude.relu() @ sae.W_dec_FE)
    frozen = gate.relu() @ sae.W_dec_FE.detach() + complete(sae, x, torch.zeros_like(y)).detach()
    unit = 1 / output_norm(sae, y)
    penalised = gate.relu() * block_norms(sae).detach() if sae.config.is_transcoder else gate.relu()
    error, gate_error = (((y - each) * unit).square().sum(1).mean() for each in (y_hat, frozen))
    return Plain(error, y_hat, gate_error + coefficient * (penalised * unit).sum(1).mean())


def _jumprelu(sae: Sae, x: Tensor, y: Tensor, dead: Tensor, coefficient: float) -> Plain:
    quadratic = sae.config.is_quadratic
    unit = (1.0 if quadratic else sae.config.d_in**0.5) / sae.input_norm
    theta = sae.log_threshold_F.exp() / unit
    width = (sae.config.jumprelu_bandwidth or (1e-3 if quadratic else 2.0)) / unit
    pre = pre_activations(sae, x)
    above = (pre > theta).to(pre.dtype)
    near = ((pre - theta).abs() < width / 2).to(pre.dtype)
    # Straight-through estimators: what is added is 0, its gradient is the estimate.
    acts = pre * above + _estimate(theta, -(theta / width) * near)
    y_hat = complete(sae, x, acts @ sae.W_dec_FE)
    if quadratic:
        step = above + _estimate(theta, -near / width)
        target = sae.config.target_l0 or 32.0
        return Plain(fvu(y, y_hat), y_hat, coefficient * (step.sum(1).mean() / target - 1).square())
    norms = block_norms(sae)
    unit = sae.config.width_out**0.5 / output_norm(sae, y)
    error = ((y - y_hat) * unit).square().sum(1).mean()
    saturating = torch.tanh(4 * acts * norms * unit).sum(1).mean()
    pull = ((theta - pre).relu() * norms * unit)[:, dead].sum(1).mean()
    return Plain(error, y_hat, coefficient * saturating + 3e-6 * pull)


def _estimate(theta: Tensor, gradient: Tensor) -> Tensor:
    return gradient.detach() * (theta - theta.detach())


def block_norms(sae: Sae) -> Tensor:
    blocks = sae.W_dec_FE.chunk(sae.config.layers, dim=1)
    return sum(block.norm(dim=1) for block in blocks)


def output_norm(sae: Sae, y: Tensor) -> Tensor:
    return (y - y.mean(0)).square().sum(1).mean().sqrt() if sae.config.is_transcoder else sae.input_norm


def _auxk(sae: Sae, x: Tensor, residual: Tensor, dead: Tensor) -> Tensor:
    pre = pre_activations(sae, x)
    masked = torch.full_like(pre, -torch.inf)
    masked[:, dead] = pre[:, dead]
    acts = largest(masked, min(sae.config.aux_k, len(dead)))
    error = fvu(residual, acts @ sae.W_dec_FE)
    return min(len(dead) / sae.config.aux_k, 1) * error


def _ghost(sae: Sae, x: Tensor, residual: Tensor, dead: Tensor, reconstruction: Tensor) -> Tensor:
    ghost = pre_activations(sae, x)[:, dead].exp() @ sae.W_dec_FE[dead]
    lengths = residual.norm(dim=1, keepdim=True)
    half_as_long = ghost * (lengths / (2 * ghost.norm(dim=1, keepdim=True))).detach()
    error = ((half_as_long - residual).square() / lengths).mean()
    return error * (reconstruction / error).detach()
