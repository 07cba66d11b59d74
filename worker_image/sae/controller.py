"""Holding L0 at a target by moving the coefficient of the sparsity loss.

L0 falls as the coefficient rises, by how much nobody knows beforehand, and only as fast as the weights learn. So the
logarithm of the coefficient follows a proportional and integral law on the logarithm of L0's excess:

    excess = log(average of L0 / target)
    log coefficient += P (excess - excess before) + I min(excess / 1/4, 1)

That is the law in its velocity form: what integrates is the coefficient itself, and since both its step and its range
are bounded, nothing winds up while a bound holds it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_LARGEST_EXCESS = 0.25
"""An excess beyond this integrates like this: early in training L0 is off by orders of magnitude and falls anyway. The
proportional part sees all of that fall, and takes back what integrated meanwhile."""

_LEAST_L0 = 1e-3
"""What an L0 of 0 counts as."""


@dataclass(frozen=True)
class L0Control:
    """How a controller acts. Times are steps at the peak learning rate."""

    target_l0: float
    """Latents per token to hold."""
    averaging_steps: float
    """Time constant of the average of L0."""
    integral_steps: float
    """Time in which a lasting excess of 28 % or more moves the coefficient by a factor of e."""
    proportional: float = 1.0
    """P: what the coefficient answers at once, in powers of L0's change."""
    most_per_step: float = 0.02
    """Largest step of the coefficient's logarithm."""
    range_factor: float = 1e4
    """How far the coefficient may go from where it started, up or down."""

    @classmethod
    def over(cls, target_l0: float, steps: int) -> "L0Control":
        """Settings for a training of ``steps``: quick enough to settle within its first third."""
        return cls(
            target_l0,
            averaging_steps=min(max(steps / 200, 5.0), 100.0),
            integral_steps=min(max(steps / 20, 20.0), 2000.0),
        )


class L0Controller:
    """One coefficient and what its controller remembers.

    All of it stays on the device, so that a step waits for nothing; the same L0 gives the same coefficients to the bit.
    """

    def __init__(self, control: L0Control, coefficient: float, device: torch.device | str = "cpu") -> None:
        self.control = control
        self._log_start = math.log(coefficient)
        self._log = torch.tensor(self._log_start, device=device)
        self._average = torch.tensor(math.nan, device=device)
        self._excess = torch.tensor(math.nan, device=device)

    @property
    def coefficient(self) -> Tensor:
        """The coefficient of the next step: a scalar."""
        return self._log.exp()

    @torch.no_grad()
    def observe(self, l0: Tensor, pace: float = 1.0) -> None:
        """Take in the L0 of a step. ``pace`` is the share of the peak learning rate that the step had: L0 answers as
        much more slowly, and the coefficient is moved as much more slowly. At 0 (still warming up) it only listens."""
        control = self.control
        weight = 1 - math.exp(-1 / control.averaging_steps)
        # The first L0 starts the average: one started at 0 would call for less sparsity first.
        self._average = torch.where(self._average.isnan(), l0.float(), torch.lerp(self._average, l0.float(), weight))
        excess = (self._average.clamp_min(_LEAST_L0) / control.target_l0).log()
        before = torch.where(self._excess.isnan(), excess, self._excess)
        self._excess = excess
        lasting = (excess / _LARGEST_EXCESS).clamp(-1, 1)
        step = pace * (control.proportional * (excess - before) + lasting / control.integral_steps)
        reach = math.log(control.range_factor)
        moved = self._log + step.clamp(-control.most_per_step, control.most_per_step)
        self._log = moved.clamp(self._log_start - reach, self._log_start + reach)

    def move_to(self, coefficient: float) -> None:
        """Go on from ``coefficient``, which someone set by hand."""
        self._log = torch.full_like(self._log, math.log(coefficient))

    def state(self) -> dict[str, Tensor]:
        """All that ``restore`` needs."""
        return {"log_coefficient": self._log, "l0_average": self._average, "l0_excess": self._excess}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from ``state``.

        Raises:
            KeyError: it is not a controller's.
        """
        self._log = state["log_coefficient"].to(self._log)
        self._average = state["l0_average"].to(self._average)
        self._excess = state["l0_excess"].to(self._excess)
