"""What training takes its activations from, wherever they come from: read off the cache, or harvested as it goes.

Shapes: B = batch_size tokens, W = width of all hookpoints side by side.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from worker_image.lm.harvest import Columns

Json = dict[str, Any]


class Batches(Protocol):
    """An endless row of batches, the same for the same position.

    Use: exhaust ``prepare`` whenever not ``ready``, then take ``next_batch``.
    """

    @property
    def position(self) -> Json:
        """Where the next batch is: what a checkpoint keeps."""
        ...

    @property
    def harvested(self) -> int:
        """Tokens that went through the language model so far, here or in a job that was waited for."""
        ...

    @property
    def to_harvest(self) -> int:
        """Tokens that will have gone through it at the end of training, as far as is known."""
        ...

    @property
    def distinct_tokens(self) -> int | None:
        """Training tokens that are repeated epoch after epoch; None while that is unknown, or none is seen twice."""
        ...

    @property
    def buffered_tokens(self) -> int:
        """Held in memory at once, at most, beside the held-out ones."""
        ...

    @property
    def ready(self) -> bool:
        """Whether ``next_batch`` has one to give."""
        ...

    @property
    def stall_share(self) -> float:
        """Share of the time since the first batch in which training waited for activations."""
        ...

    def columns(self) -> Columns:
        """Which columns of W belong to which hookpoint. May read the language model's weights."""
        ...

    def prepare(self) -> Iterator[int]:
        """Get what the next batches need; yields often, with how many tokens were harvested since: none, maybe, where
        it waits for another job. Closing it leaves everything in order.

        Raises:
            UserError: the activations cannot be had.
        """
        ...

    def next_batch(self) -> Tensor:
        """(B, W), and move on."""
        ...

    def sample(self, n: int) -> Tensor:
        """(n, W) at most, spread evenly over what is at hand: nothing, maybe, before ``ready``. Changes nothing."""
        ...

    def held_out(self) -> Tensor:
        """(held_out_tokens, W), once ``prepare`` was exhausted."""
        ...

    def close(self) -> None:
        """Let go of locks, threads and the language model."""
        ...


class StallClock:
    """Measures the share of time spent waiting."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._since: float | None = None
        self._waited_s = 0.0

    def start(self) -> None:
        """Count from now, if it does not count yet."""
        if self._since is None:
            self._since = self._clock()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What happens inside is waiting, once it counts."""
        begin = self._clock()
        try:
            yield
        finally:
            if self._since is not None:
                self._waited_s += self._clock() - max(begin, self._since)

    @property
    def share(self) -> float:
        """0 until it counts."""
        passed_s = self._clock() - self._since if self._since is not None else 0.0
        return self._waited_s / passed_s if passed_s > 0 else 0.0
