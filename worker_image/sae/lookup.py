"""The encoder's product in the type in which active latents are looked for.

Shapes: B tokens, D = d_in, F = d_sae, N active positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_LARGEST_EXPONENT = 14
"""Products and biases in float16 stay below 2 to this, so their sum stays below 2^15; float16 ends at 65,504."""

_WEIGHT_EXPONENT = 8
"""Rows of the encoder in float16 stay shorter than 2 to this: about as far from its lower end as inputs are."""

_SMALLEST = 1e-20
"""Lengths below this count as this, so that a scale stays within float32."""


@dataclass(frozen=True, eq=False)
class Lookup:
    """W x + b, perhaps rounded and scaled: what is largest or above a floor in it is so in the exact product, too."""

    x_BD: Tensor
    W_FD: Tensor
    b_F: Tensor
    scale: Tensor | None = None
    """By what its results are too large; None for 1."""

    @classmethod
    @torch.no_grad()
    def of(cls, x_BD: Tensor, W_FD: Tensor, b_F: Tensor, dtype: torch.dtype) -> "Lookup":
        """The product in ``dtype``. In float16 it is scaled by a power of two so that no activation, however large, and
        no result can overflow; the host does not wait for the device to find it."""
        if dtype != torch.float16:
            return cls(x_BD, W_FD.to(dtype), b_F)
        longest_W = W_FD.norm(dim=1).amax().clamp_min(_SMALLEST)
        # By Cauchy and Schwarz no result, nor any sum on the way to it, is larger than the product of the two lengths.
        longest = torch.maximum(x_BD.norm(dim=1).amax(), b_F.abs().amax() / longest_W).clamp_min(_SMALLEST)
        scale_W = _power(_WEIGHT_EXPONENT, longest_W)
        scale_x = _power(_LARGEST_EXPONENT - _WEIGHT_EXPONENT, longest)
        scale = scale_W * scale_x
        return cls(_halved(x_BD, scale_x), _halved(W_FD, scale_W), b_F * scale, scale)

    def unscaled(self, found_N: Tensor, like: Tensor) -> Tensor:
        """Results as they would be without the scale, in the type of ``like``."""
        return found_N if self.scale is None else found_N.to(like.dtype) / self.scale

    def floor(self, floor_F: Tensor) -> Tensor:
        """What the results are above where the exact product is above ``floor_F``."""
        return floor_F if self.scale is None else floor_F * self.scale


def _power(exponent: int, length: Tensor) -> Tensor:
    """The power of two that brings ``length`` below 2^exponent, and not below half of that."""
    return torch.ldexp(torch.ones_like(length), exponent - torch.frexp(length).exponent)


def _halved(values: Tensor, scale: Tensor) -> Tensor:
    """``values`` times ``scale`` in float16, without a copy in their own type."""
    return torch.mul(values, scale, out=torch.empty_like(values, dtype=torch.float16))
