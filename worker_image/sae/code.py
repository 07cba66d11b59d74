"""A sparse code: the active latents of a batch, as positions and values, or densely while most are active.

Shapes: B tokens, D = d_in, F = d_sae, N active positions. A trailing ``_P`` is (N,) where the code is sparse and
(B, F) where it is dense: what is done to each value is written once for both.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from worker_image.sae.lookup import Lookup
from worker_image.sae.sparse import Chosen, Pattern, affine, decode, pre_at, select_above

_DENSE_FROM = 0.1
"""Share of active latents from which a product over all of them is faster than one over the active."""

_SAMPLE_ROWS = 64
"""Tokens by which the share is judged before the whole batch is encoded."""


@dataclass(frozen=True)
class Places:
    """Which latents of which tokens a value belongs to."""

    shape: tuple[int, int]
    """(B, F)."""
    pattern: Pattern | None
    """The positions; None where every latent of every token has a value."""

    def of_latents(self, values_F: Tensor) -> Tensor:
        """One value per latent, brought to each position: (P)."""
        return values_F if self.pattern is None else values_F[self.pattern.latent_N]

    def sum_by_latent(self, values_P: Tensor) -> Tensor:
        """The sum over tokens of each latent's values: (F,)."""
        return values_P.sum(0) if self.pattern is None else self.pattern.sum_by_latent(values_P)

    def dense(self, values_P: Tensor) -> Tensor:
        """(B, F)."""
        return values_P if self.pattern is None else self.pattern.dense(values_P)


@dataclass(frozen=True)
class Code:
    """The latents of a batch."""

    acts_P: Tensor
    """Activations, none below 0."""
    pre_P: Tensor
    """Pre-activations at the same places."""
    places: Places

    @property
    def n_active(self) -> Tensor:
        """Activations above 0, in all."""
        return (self.acts_P > 0).sum()

    @property
    def l0(self) -> Tensor:
        """Mean number of active latents per token."""
        return self.n_active / self.places.shape[0]

    @property
    def fired_F(self) -> Tensor:
        """Whether each latent is active for any token: (F,) bool."""
        return self.places.sum_by_latent((self.acts_P > 0).to(torch.int32)) > 0

    @property
    def firings_F(self) -> Tensor:
        """For how many tokens each latent is active: (F,)."""
        return self.places.sum_by_latent((self.acts_P > 0).to(torch.int32))

    def dense(self) -> Tensor:
        """Activations as (B, F); differentiable."""
        return self.places.dense(self.acts_P)

    def decode(self, W_dec_FE: Tensor, acts_P: Tensor | None = None) -> Tensor:
        """The latents' decoder rows, weighted by their activations (or by ``acts_P``) and summed: (B, E)."""
        weights_P = self.acts_P if acts_P is None else acts_P
        if self.places.pattern is None:
            return weights_P @ W_dec_FE
        return decode(weights_P, self.places.pattern, W_dec_FE)


def encode_chosen(x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, chosen: Chosen) -> Code:
    """ReLU(W_enc x + b_enc) at positions that are chosen already."""
    pre_N = pre_at(x_BD, W_enc_FD, b_enc_F, *chosen)
    return Code(torch.relu(pre_N), pre_N, Places((len(x_BD), len(W_enc_FD)), chosen.pattern))


def encode_above(
    x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, floor_F: Tensor, lookup: Lookup | None = None
) -> tuple[Tensor, Places]:
    """(W_enc x + b_enc, its places) wherever it exceeds the floor of its latent, or everywhere when that is much of it.

    ``lookup``: the product in which positions are looked for, if it is another. Values are exact all the same, for they
    are compared with thresholds once more.
    """
    shape = (len(x_BD), len(W_enc_FD))
    lookup = Lookup(x_BD, W_enc_FD, b_enc_F) if lookup is None else lookup
    looked_above_F = lookup.floor(floor_F)
    if _share_above(lookup, looked_above_F) > _DENSE_FROM:
        return affine(x_BD, W_enc_FD, b_enc_F), Places(shape, None)
    pattern, found_N = select_above(lookup.x_BD, lookup.W_FD, lookup.b_F, looked_above_F)
    known_N = found_N if lookup.W_FD.dtype == W_enc_FD.dtype else None
    return pre_at(x_BD, W_enc_FD, b_enc_F, pattern, known_N), Places(shape, pattern)


@torch.no_grad()
def _share_above(lookup: Lookup, floor_F: Tensor) -> float:
    x_BD, W_FD = lookup.x_BD, lookup.W_FD
    sample_RD = x_BD[:: max(1, len(x_BD) // _SAMPLE_ROWS)].to(W_FD.dtype)
    pre_RF = functional.linear(sample_RD, W_FD, lookup.b_F.to(W_FD.dtype))
    return float((pre_RF > floor_F).float().mean())
