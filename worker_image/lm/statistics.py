"""What is known of activations without looking at them again: sums that add up over any parts.

Shapes: N rows, D = width.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

_ROWS_AT_ONCE = 2048


class TensorFile(Protocol):
    """An open safetensors file."""

    def get_tensor(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class Statistics:
    """Sums over rows, in float64."""

    rows: int
    sum_D: Tensor
    square_sum_D: Tensor
    norm_sum: float

    @classmethod
    def none(cls, width: int) -> Self:
        zeros_D = torch.zeros(width, dtype=torch.float64)
        return cls(0, zeros_D, zeros_D, 0.0)

    @classmethod
    def of(cls, acts_ND: Tensor) -> Self:
        """Summed in float32 a few rows at a time, which in float64 would cost as much as harvesting them."""
        sum_D = torch.zeros(acts_ND.shape[1], dtype=torch.float64)
        square_sum_D, norm_sum = torch.zeros_like(sum_D), 0.0
        for part in acts_ND.split(_ROWS_AT_ONCE):
            x_ND = part.float()
            squares_ND = x_ND.square()
            sum_D += x_ND.sum(0)
            square_sum_D += squares_ND.sum(0)
            norm_sum += float(squares_ND.sum(1).sqrt().sum())
        return cls(len(acts_ND), sum_D, square_sum_D, norm_sum)

    @classmethod
    def stored(cls, file: TensorFile) -> Self:
        """What ``tensors`` gave, from a file that holds it."""
        scalars = file.get_tensor("scalars")
        return cls(int(scalars[0]), file.get_tensor("sum"), file.get_tensor("square_sum"), float(scalars[1]))

    def tensors(self) -> dict[str, Tensor]:
        scalars = torch.tensor([self.rows, self.norm_sum], dtype=torch.float64)
        return {"sum": self.sum_D, "square_sum": self.square_sum_D, "scalars": scalars}

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.rows + other.rows,
            self.sum_D + other.sum_D,
            self.square_sum_D + other.square_sum_D,
            self.norm_sum + other.norm_sum,
        )

    @property
    def mean_D(self) -> Tensor:
        return self.sum_D / max(1, self.rows)

    @property
    def variance_D(self) -> Tensor:
        """Of each dimension, over rows."""
        return (self.square_sum_D / max(1, self.rows) - self.mean_D.square()).clamp_min(0)

    @property
    def mean_norm(self) -> float:
        return self.norm_sum / max(1, self.rows)

    @property
    def mean_square(self) -> float:
        """Of an entry."""
        return float(self.square_sum_D.mean()) / max(1, self.rows)

    def summary(self) -> dict[str, float]:
        """A few numbers that tell what the activations are like."""
        variance_D = self.variance_D
        return {
            "mean_norm": self.mean_norm,
            "norm_of_mean": float(self.mean_D.norm()),
            "mean_square": self.mean_square,
            "variance_min": float(variance_D.min()),
            "variance_median": float(variance_D.median()),
            "variance_max": float(variance_D.max()),
            "variance_total": float(variance_D.sum()),
        }
