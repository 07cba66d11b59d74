"""How long a training's work takes on a machine, and what that costs. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from worker_image.contract.budget import Work

_TERA = 1e12
_GIGA = 1e9
_START_S = 10.0
"""Imports, reading the model, and the last evaluation."""
_EFFICIENCY = 0.4
"""Share of a GPU's figures on paper that such training reaches."""
_PER_CORE_FLOP_S = 40 * _GIGA
_PER_CORE_BYTES_S = 6 * _GIGA


@dataclass(frozen=True, slots=True)
class Speed:
    """What a machine computes in a second."""

    half_flop_s: float
    """With 16-bit numbers."""
    single_flop_s: float
    """With 32-bit numbers, in the reduced precision that matrix products use by default."""
    bytes_s: float
    """Read and written in its memory."""


_PAPER: dict[str, Speed] = {
    "B200": Speed(2250 * _TERA, 80 * _TERA, 8000 * _GIGA),
    "H200": Speed(990 * _TERA, 67 * _TERA, 4800 * _GIGA),
    "H100": Speed(990 * _TERA, 67 * _TERA, 3350 * _GIGA),
    "A100": Speed(312 * _TERA, 19.5 * _TERA, 1900 * _GIGA),
    "L40S": Speed(362 * _TERA, 91 * _TERA, 864 * _GIGA),
    "L4": Speed(121 * _TERA, 30 * _TERA, 300 * _GIGA),
    "A10": Speed(125 * _TERA, 31 * _TERA, 600 * _GIGA),
    "T4": Speed(65 * _TERA, 8 * _TERA, 320 * _GIGA),
    "V100": Speed(125 * _TERA, 15.7 * _TERA, 900 * _GIGA),
    "RTX 5090": Speed(209 * _TERA, 105 * _TERA, 1790 * _GIGA),
    "RTX 4090": Speed(165 * _TERA, 83 * _TERA, 1008 * _GIGA),
    "RTX 3090": Speed(71 * _TERA, 36 * _TERA, 936 * _GIGA),
}
"""Part of a GPU's name -> its makers' figures for dense products. The first that fits holds."""
_OTHER_GPU = Speed(60 * _TERA, 15 * _TERA, 400 * _GIGA)


def gpu_speed(name: str) -> Speed:
    """What a GPU of this name reaches; a modest one's where the name is not known."""
    paper = next((speed for part, speed in _PAPER.items() if part in name), _OTHER_GPU)
    return Speed(paper.half_flop_s * _EFFICIENCY, paper.single_flop_s * _EFFICIENCY, paper.bytes_s * _EFFICIENCY)


def cpu_speed(cores: float) -> Speed:
    """What so many processor cores reach."""
    flop_s = cores * _PER_CORE_FLOP_S
    return Speed(flop_s, flop_s, cores * _PER_CORE_BYTES_S)


def seconds(work: Work, speed: Speed, *, model_in_half: bool) -> float:
    """How long ``work`` takes at ``speed``: harvesting and training one after the other."""
    harvesting = work.harvest_flop / (speed.half_flop_s if model_in_half else speed.single_flop_s)
    training = work.training_flop / speed.single_flop_s + work.moved_bytes / speed.bytes_s
    return _START_S + harvesting + training


def correction(ran: Iterable[tuple[float, float]]) -> tuple[float, int]:
    """By what estimates here have to be multiplied, and from how many jobs that is known.

    Args:
        ran: of earlier jobs, the seconds estimated and the seconds they took.
    """
    ratios = [took / estimated for estimated, took in ran if estimated > 0 and took > 0]
    return (median(ratios), len(ratios)) if ratios else (1.0, 0)
