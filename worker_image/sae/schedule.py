"""What changes over training: the learning rate rises, stays and falls; the weight of the sparsity loss rises."""

import math

from worker_image.sae.config import SaeConfig

_LEAST_SHARE = 0.01
"""What an exponential fall ends at, as a share of the peak rate."""


def lr_factor(step: int, config: SaeConfig) -> float:
    """Share of the peak learning rate used by step number ``step``, counted from 0.

    Warm-up gives step i the share (i + 1) / warmup_steps, so that no step is wasted on a rate of 0; the decay likewise
    ends with the last step just above 0.
    """
    rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    decay_steps = round(config.steps * config.decay_fraction)
    remaining = config.steps - step
    if config.lr_schedule == "constant" or decay_steps == 0 or remaining > decay_steps:
        return rise
    share = max(0.0, remaining / (decay_steps + 1))
    match config.lr_schedule:
        case "linear":
            return rise * share
        case "cosine":
            return rise * 0.5 * (1 - math.cos(math.pi * share))
        case "exponential":
            return rise * _LEAST_SHARE ** (1 - share)


def coefficient_factor(step: int, config: SaeConfig) -> float:
    """Share of the sparsity coefficient used by step number ``step``, counted from 0: a linear rise."""
    rise = config.coefficient_warmup_steps
    return min(1.0, (step + 1) / rise) if rise else 1.0
