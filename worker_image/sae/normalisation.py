"""Normalising activations: one scale a hookpoint, and the mean taken off before it if that is asked for.

Only what can be folded into the weights exactly is offered, so that an exported autoencoder reads raw activations. A
normalisation by token (as ``layer_norm``) cannot be, and is not.

Shapes: N tokens, B tokens, D = width of one hookpoint, W = width of all of them side by side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

NormalisationMode = Literal["none", "mean_norm", "unit_mean_square", "standardise"]
"""``mean_norm``: the mean norm becomes sqrt(D) (SAELens calls it ``expected_average_only_in``).
``unit_mean_square``: the mean square of an entry becomes 1 (as in arXiv 2407.14435).
``standardise``: the mean is taken off, then the mean square of an entry becomes 1."""


@dataclass(frozen=True)
class Normalisation:
    """``normalised = (x - mean) * scale``, and ``x = normalised / scale + mean``."""

    scale: float = 1.0
    mean_D: Tensor | None = None
    """float32 on the CPU; nothing is taken off when None."""

    @classmethod
    def measured(cls, sample_ND: Tensor, mode: NormalisationMode) -> Self:
        """What makes activations like ``sample_ND`` as ``mode`` says. All zeros are left as they are."""
        x_ND = sample_ND.detach().double().cpu()
        mean_D = x_ND.mean(0) if mode == "standardise" else None
        centred_ND = x_ND if mean_D is None else x_ND - mean_D
        match mode:
            case "none":
                size = 1.0
            case "mean_norm":
                size = float(centred_ND.norm(dim=1).mean()) / x_ND.shape[1] ** 0.5
            case "unit_mean_square" | "standardise":
                size = float(centred_ND.square().mean()) ** 0.5
        return cls(1 / size if size > 0 else 1.0, None if mean_D is None else mean_D.float())

    def to_json(self) -> dict[str, object]:
        return {"scale": self.scale, "mean": None if self.mean_D is None else self.mean_D.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """What ``to_json`` gave, exactly: a float32 survives its decimal form."""
        mean = data["mean"]
        return cls(float(str(data["scale"])), None if mean is None else torch.tensor(mean, dtype=torch.float32))


class Affine(NamedTuple):
    """A normalisation column by column: ``(x - mean) * scale``; float32 on the CPU."""

    scale_W: Tensor
    mean_W: Tensor


class Scaling:
    """The normalisations of all hookpoints, applied to their activations side by side."""

    def __init__(self, parts: Mapping[str, Normalisation], columns: Mapping[str, slice]) -> None:
        """``columns``: which columns of W belong to which hookpoint."""
        self.parts = dict(parts)
        self._width = width = max(columns[name].stop for name in self.parts)
        scale_W, mean_W = torch.ones(width), torch.zeros(width)
        for name, part in self.parts.items():
            scale_W[columns[name]] = part.scale
            if part.mean_D is not None:
                mean_W[columns[name]] = part.mean_D
        self._mean_W = mean_W if any(part.mean_D is not None for part in self.parts.values()) else None
        self._scale_W = scale_W if any(part.scale != 1 for part in self.parts.values()) else None

    @classmethod
    def measured(cls, sample_NW: Tensor, columns: Mapping[str, slice], mode: NormalisationMode) -> Self:
        """Every hookpoint normalised for itself, as their scales differ."""
        parts = {name: Normalisation.measured(sample_NW[:, part], mode) for name, part in columns.items()}
        return cls(parts, columns)

    def apply(self, x_BW: Tensor) -> Tensor:
        """(B, W) in float32, normalised, on the device of ``x_BW``; untouched where there is nothing to do."""
        x_BW = x_BW.float()
        if self._mean_W is not None:
            self._mean_W = self._mean_W.to(x_BW.device)
            x_BW = x_BW - self._mean_W
        if self._scale_W is not None:
            self._scale_W = self._scale_W.to(x_BW.device)
            x_BW = x_BW * self._scale_W
        return x_BW

    def of(self, columns: slice) -> Affine:
        """What is done to these columns."""
        scale_W = torch.ones(self._width) if self._scale_W is None else self._scale_W.cpu()
        mean_W = torch.zeros(self._width) if self._mean_W is None else self._mean_W.cpu()
        return Affine(scale_W[columns], mean_W[columns])

    def to_json(self) -> dict[str, dict[str, object]]:
        return {name: part.to_json() for name, part in self.parts.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, object]], columns: Mapping[str, slice]) -> Self:
        return cls({name: Normalisation.from_json(part) for name, part in data.items()}, columns)
