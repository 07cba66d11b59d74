"""A batch that is differentiated in parts, and what its loss is relative to as a whole.

A loss sums over tokens, and divides by figures of the batch or squares them. Where these are known beforehand, each
part contributes its share, and the gradients of all shares add up to the whole batch's, however it was cut.

Shapes: B tokens, D = d_in, E = width_out.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import repeat

import torch
from torch import Tensor

from worker_image.sae.metrics import total_variance
from worker_image.sae.sparse import Chosen


@dataclass(frozen=True)
class Part:
    """Tokens that are differentiated at once."""

    x_BD: Tensor
    y_BE: Tensor
    chosen: Chosen | None = None
    """The places of its latents, where they are chosen among those of all parts."""


def cut(x_BD: Tensor, y_BE: Tensor, tokens: int, chosen: Chosen | None) -> list[Part]:
    """Parts of ``tokens`` tokens; the last may have fewer."""
    places = repeat(None) if chosen is None else chosen.split(tokens)
    return [Part(*each) for each in zip(x_BD.split(tokens), y_BE.split(tokens), places, strict=False)]


@dataclass(frozen=True, eq=False)
class WholeBatch:
    """Figures of the whole batch. Those that are None are worked out from what is differentiated: all of it."""

    y_BE: Tensor
    """What is reconstructed or predicted."""
    l0: Tensor | None = None
    """Active latents per token."""
    residual_variance: Tensor | None = None
    """Total variance of what the reconstruction leaves over."""
    ghost_weight: Tensor | None = None
    """By what the error of ghost gradients is multiplied."""

    @property
    def tokens(self) -> int:
        """B."""
        return len(self.y_BE)

    @cached_property
    def variance(self) -> Tensor:
        """Total variance of ``y_BE``."""
        return total_variance(self.y_BE)

    @property
    def norm(self) -> Tensor:
        """Root mean square of the distances of ``y_BE`` from their mean; 1 where all are the same."""
        return torch.where(self.variance > 0, self.variance / self.tokens, 1.0).sqrt()


class Spread:
    """The total variance of tokens that come part by part, without a difference of large sums (Chan, Golub and LeVeque,
    1979)."""

    def __init__(self, like_E: Tensor) -> None:
        self._tokens = 0
        self._mean_E = torch.zeros_like(like_E)
        self.total = like_E.new_zeros(())
        """Squared distances from the mean of all, summed."""

    def add(self, y_BE: Tensor) -> None:
        """Take in another part."""
        tokens = self._tokens + len(y_BE)
        apart_E = y_BE.mean(0) - self._mean_E
        between = apart_E.square().sum() * (self._tokens * len(y_BE) / tokens)
        self.total = self.total + total_variance(y_BE) + between
        self._mean_E = self._mean_E + apart_E * (len(y_BE) / tokens)
        self._tokens = tokens
