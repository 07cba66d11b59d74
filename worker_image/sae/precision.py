"""Training as if weight matrices were stored in 8 bits.

A simulation: products are computed in float32 from weights that were rounded to FP8, while the optimiser moves float32
masters. It tells what FP8 would do to an autoencoder, and how often a step is too small to change any bit.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worker_image.sae.config import WeightsDtype

_TYPES = {"float8_e4m3": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}


class RoundedWeights:
    """The float32 masters of a module's matrices, whose parameters hold what FP8 makes of them."""

    def __init__(self, module: nn.Module, dtype: WeightsDtype) -> None:
        self._matrices = {name: weight for name, weight in module.named_parameters() if weight.ndim == 2}
        self._dtype = dtype
        self._masters = {name: weight.detach().clone() for name, weight in self._matrices.items()}
        self._bits: dict[str, Tensor] = {}
        self._stalled: Tensor | None = None
        self._round()

    @property
    def stalled_share(self) -> Tensor | None:
        """Share of weights whose master moved in the last step and whose 8 bits did not; None before the first."""
        return self._stalled

    @torch.no_grad()
    def unround(self) -> None:
        """Put the masters in place, for the optimiser to move."""
        for name, weight in self._matrices.items():
            weight.copy_(self._masters[name])

    @torch.no_grad()
    def take_over(self) -> None:
        """Keep what the optimiser made of the masters, and round."""
        moved = {name: weight != self._masters[name] for name, weight in self._matrices.items()}
        for name, weight in self._matrices.items():
            self._masters[name].copy_(weight)
        before = self._bits
        self._round()
        stalled = [((bits == before[name]) & moved[name]).sum() for name, bits in self._bits.items()]
        total = torch.stack([changed.sum() for changed in moved.values()]).sum()
        self._stalled = torch.stack(stalled).sum() / total.clamp_min(1)

    def state(self) -> dict[str, Tensor]:
        """The masters, by parameter."""
        return dict(self._masters)

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over ``state`` and round."""
        for name, master in self._masters.items():
            master.copy_(state[name])
        self._round()

    @torch.no_grad()
    def _round(self) -> None:
        self._bits = {}
        for name, weight in self._matrices.items():
            bits, scale = _encoded(self._masters[name], self._dtype)
            weight.copy_(bits.to(weight.dtype) * scale)
            self._bits[name] = bits.view(torch.uint8)


def _encoded(weights: Tensor, dtype: WeightsDtype) -> tuple[Tensor, Tensor]:
    """(the FP8 numbers, scaled so that the largest is just representable; by what they are multiplied)."""
    kind = _TYPES[dtype]
    scale = weights.abs().amax().clamp_min(torch.finfo(weights.dtype).tiny) / torch.finfo(kind).max
    return (weights / scale).to(kind), scale
