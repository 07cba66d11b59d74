"""What the benchmarks of training steps share: a shape, activations to train on, and timing in turns.

Shapes: B tokens, D = d_in, F = d_sae.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

_FEATURES = 2048
_ACTIVE_SHARE = 0.015
_NOISE = 0.1


@dataclass(frozen=True)
class Shape:
    """The size of one step."""

    tokens: int = 4096
    d_in: int = 384
    d_sae: int = 6144
    k: int = 32

    def __str__(self) -> str:
        return f"B={self.tokens}, D={self.d_in}, F={self.d_sae}, K={self.k}"


def activations(shape: Shape, seed: int = 0) -> Iterator[Tensor]:
    """Batches of sparse sums of 2,048 directions, with noise; endless."""
    generator = torch.Generator().manual_seed(0)
    features_FD = torch.randn(_FEATURES, shape.d_in, generator=generator)
    generator.manual_seed(seed + 1)
    while True:
        drawn_BF = torch.rand(shape.tokens, _FEATURES, generator=generator)
        strength_BF = torch.where(drawn_BF < _ACTIVE_SHARE, drawn_BF / _ACTIVE_SHARE, 0)
        noise_BD = torch.randn(shape.tokens, shape.d_in, generator=generator)
        yield strength_BF @ features_FD + _NOISE * noise_BD


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call, over all rounds."""

    wall: Sequence[float]
    processor: Sequence[float]
    """Of all cores together: what other work on the machine disturbs less."""

    def row(self, against: "Timing") -> list[object]:
        """Median and least wall time, median processor time, and both against another's."""
        wall, processor = median(self.wall), median(self.processor)
        return [
            wall,
            min(self.wall),
            processor,
            wall / median(against.wall),
            processor / median(against.processor),
        ]


HEADINGS = ["wall ms", "least", "processor ms", "wall ratio", "processor ratio"]


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Time each call once a round, after one round that is not counted."""
    wall: dict[str, list[float]] = {name: [] for name in calls}
    processor: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(rounds + 1):
        for name, call in calls.items():
            wall_begin, processor_begin = time.perf_counter(), time.process_time()
            call()
            if round_number:
                wall[name].append((time.perf_counter() - wall_begin) * 1e3)
                processor[name].append((time.process_time() - processor_begin) * 1e3)
    return {name: Timing(wall[name], processor[name]) for name in calls}
