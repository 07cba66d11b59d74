"""What the benchmarks of training steps share: a shape, activations to train on, and timing in turns.

Shapes: B tokens, D = d_in, F = d_sae.
"""

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from statistics import median

import torch
from torch import Tensor

_FEATURES = 2048
_ACTIVE_SHARE = 0.015
_NOISE = 0.1
_BATCHES = 4
_STEPS_A_TURN = 4


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

    wall: list[float]
    processor: list[float]
    """Of all cores together: what other work on the machine disturbs less."""

    @property
    def median(self) -> float:
        """Of the wall time."""
        return median(self.wall)

    def row(self, against: "Timing") -> list[object]:
        """Median and least wall time, median processor time, and both against another's."""
        processor = median(self.processor)
        return [
            self.median,
            min(self.wall),
            processor,
            self.median / against.median,
            processor / median(against.processor),
        ]


HEADINGS = ["wall ms", "least", "processor ms", "wall ratio", "processor ratio"]


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Time each call once a round, after one round that is not counted."""
    timings = {name: Timing([], []) for name in calls}
    for round_number in range(rounds + 1):
        for name, call in calls.items():
            wall, processor = _timed(call)
            if round_number:
                timings[name].wall.append(wall)
                timings[name].processor.append(processor)
    return timings


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """(wall, processor) milliseconds."""
    wall_begin, processor_begin = time.perf_counter(), time.process_time()
    call()
    return (time.perf_counter() - wall_begin) * 1e3, (time.process_time() - processor_begin) * 1e3


Step = Callable[[Tensor], object]


def in_processes(
    makers: Mapping[str, Callable[[Tensor], Step]], shape: Shape, threads: int, rounds: int
) -> dict[str, Timing]:
    """Time some steps of each in every round, each in a process of its own, after a round that is not counted.

    As in a training, a step follows a step of the same kind, whose weights are still in the cache, and nobody else
    returns memory to the system that the next step has to fetch again. ``makers`` must be importable; each is given a
    batch to begin with.
    """
    context = multiprocessing.get_context("spawn")
    timings = {name: Timing([], []) for name in makers}
    with ExitStack() as stack:
        lines: dict[str, Connection] = {}
        for name, maker in makers.items():
            lines[name], theirs = context.Pipe()
            process = context.Process(target=_serve_steps, args=(maker, shape, threads, theirs), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.join)
            stack.callback(lines[name].close)
            lines[name].recv()
        for round_number in range(rounds + 1):
            for name, line in lines.items():
                line.send(None)
                for wall, processor in line.recv():
                    if round_number:
                        timings[name].wall.append(wall)
                        timings[name].processor.append(processor)
    return timings


def _serve_steps(maker: Callable[[Tensor], Step], shape: Shape, threads: int, line: Connection) -> None:
    """Make a step whenever asked, until nobody asks any more."""
    torch.set_num_threads(threads)
    batches = list(itertools.islice(activations(shape), _BATCHES))
    turn = itertools.cycle(batches)
    step = maker(batches[0])
    line.send(None)
    try:
        while True:
            line.recv()
            line.send([_timed(partial(step, next(turn))) for _ in range(_STEPS_A_TURN)])
    except EOFError:
        pass
