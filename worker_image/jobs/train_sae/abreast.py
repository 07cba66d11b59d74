"""Several autoencoders' steps at once, each on its share of the processor.

A step is split among threads too, but not all of it, and the threads of one step wait for each other at every
operation; those of two steps do not. On a GPU nothing is gained: one step fills it.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class Abreast:
    """Calls a function for several things at once."""

    def __init__(self, most: int) -> None:
        """``most``: of how many at once; torch's threads are divided among them."""
        threads = torch.get_num_threads()
        self.at_once = max(1, min(most, threads))
        self._pool: ThreadPoolExecutor | None = None
        if self.at_once > 1:
            self._pool = ThreadPoolExecutor(self.at_once, "learner")
            started = threading.Barrier(self.at_once)
            share = threads // self.at_once
            wait([self._pool.submit(_take_share, share, started) for _ in range(self.at_once)])
            # What a thread asked for last is what threads that begin later get.
            torch.set_num_threads(threads)

    def map(self, function: Callable[[T], R], things: Iterable[T]) -> list[R]:
        """``function`` of each, in their order; all of them have ended when it returns or raises."""
        if self._pool is None:
            return [function(thing) for thing in things]
        futures = [self._pool.submit(function, thing) for thing in things]
        wait(futures)
        return [future.result() for future in futures]

    def close(self) -> None:
        """Let the threads go."""
        if self._pool is not None:
            self._pool.shutdown()


def _take_share(threads: int, started: threading.Barrier) -> None:
    torch.set_num_threads(threads)
    # A thread settles how many it has when it is first asked, and then keeps to it.
    torch.get_num_threads()
    started.wait()
