"""Batches from the activation cache: every epoch visits all rows in a new order, and any batch is found at once.

Shapes: B = batch_size tokens, W = width of all hookpoints side by side.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker_image.errors import UserError
from worker_image.lm.batches import Json, StallClock
from worker_image.lm.cache import Entry
from worker_image.lm.fill import Gained, fill, filled, held, missing
from worker_image.lm.harvest import Columns, Harvester, side_by_side
from worker_image.lm.hookpoints import Hookpoint
from worker_image.lm.shuffle import Order, Rows
from worker_image.lm.tokens import START, Stream

_READ_AHEAD = 3
"""Batches gathered before they are asked for."""


@dataclass(frozen=True)
class CachedPart:
    """Entries of one part of a dataset, and what they are filled from."""

    entries: Mapping[Hookpoint, Entry]
    stream: Stream
    rows: int
    """How many are wanted; fewer where the dataset ends."""

    @property
    def filled(self) -> bool:
        return filled(self.entries, self.rows)

    @property
    def missing(self) -> int:
        return missing(self.entries, self.rows)

    @property
    def held(self) -> int:
        """Rows that every entry has, of those that are wanted."""
        return held(self.entries, self.rows)

    def gather(self, rows: Rows) -> Tensor:
        """(B, W), of ``rows`` in ascending order."""
        parts = [entry.gather(rows) for entry in self.entries.values()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def fill(self, harvester: Callable[[], Harvester]) -> Generator[Gained]:
        """Harvest what is missing; see ``fill``."""
        if not self.filled:
            yield from fill(self.entries, self.stream, harvester, self.rows)

    def close(self) -> None:
        for entry in self.entries.values():
            entry.close()


class CachedBatches:
    """Fills the cache with all that training asks for, if others have not, then reads it in a shuffled order.

    The language model's weights are read only when something is missing.
    """

    def __init__(
        self,
        training: CachedPart,
        held_out: CachedPart,
        harvester: Callable[[], Harvester],
        *,
        batch_size: int,
        window: int,
        seed: int,
        prefetch: bool = False,
        pinned: bool = False,
        release: Callable[[], None] = lambda: None,
        position: Json | None = None,
    ) -> None:
        """``window``: rows mixed with each other (see ``shuffle``). ``prefetch``: gather ahead on another thread;
        ``pinned``: into memory that a GPU copies from while it computes. ``release`` is called when the language
        model is no longer needed.

        Raises:
            UserError: ``position`` belongs to other activations.
        """
        self._training, self._held_out = training, held_out
        self._harvester: Callable[[], Harvester] | None = harvester
        self._batch_size, self._window, self._seed = batch_size, window, seed
        self._prefetch, self._pinned = prefetch, pinned
        self._release = release
        self._keys = {hookpoint.place: entry.recipe.key for hookpoint, entry in training.entries.items()}
        self._batch = 0
        if position is not None:
            self._batch = _batch_of(position, self._keys)
        self._order: Order | None = None
        self._ahead: _ReadAhead | None = None
        self._filling: Generator[Gained] | None = None
        self._left = [part.missing for part in (held_out, training)]
        """Rows that each part still has to gain."""
        self._clock = StallClock()
        self.harvested = 0
        self.distinct_tokens: int | None = None

    @property
    def position(self) -> Json:
        return {"source": "cache", "batch": self._batch, "entries": self._keys}

    @property
    def to_harvest(self) -> int:
        return self.harvested + sum(self._left)

    @property
    def buffered_tokens(self) -> int:
        return 0  # read from mapped files, which are not this process's memory

    @property
    def ready(self) -> bool:
        return self._order is not None

    @property
    def stall_share(self) -> float:
        return self._clock.share

    def columns(self) -> Columns:
        entries = self._training.entries
        widths = [entry.width for entry in entries.values() if entry.width is not None]
        if len(widths) < len(entries):
            assert self._harvester is not None
            widths = self._harvester().widths(next(self._held_out.stream.pieces(START)).sequence)
        return side_by_side(tuple(entries), widths)

    def missing_bytes(self, text_bytes: int) -> int:
        """What the cache would grow by at most, when the dataset holds so many bytes of text. May load the model."""
        parts = (self._training, self._held_out)
        missing = [min(part.missing, text_bytes) for part in parts]
        if not any(missing):
            return 0
        itemsize = getattr(torch, next(iter(self._training.entries.values())).recipe.dtype).itemsize
        width = max(part.stop for part in self.columns().values())
        return sum(missing) * width * itemsize

    def prepare(self) -> Iterator[int]:
        if self._order is not None:
            return
        assert self._harvester is not None
        for nth, part in enumerate((self._held_out, self._training)):
            self._filling = part.fill(self._harvester)
            for gained in self._filling:
                self.harvested += gained.rows
                self._left[nth] -= gained.rows
                yield gained.rows
            self._left[nth] = 0
        self._harvester = None
        self._release()
        rows = self._training.held
        if rows < self._batch_size:
            raise UserError(
                "dataset",
                f"{rows} training tokens are less than one batch of {self._batch_size}",
                "use a larger dataset, or lower batch_size and held_out_tokens",
            )
        self.distinct_tokens = rows
        self._order = Order(rows, self._window, self._seed)
        if self._prefetch:
            self._ahead = _ReadAhead(self._gather, self._batch)
        self._clock.start()

    def next_batch(self) -> Tensor:
        with self._clock.waiting():
            batch_BW = self._ahead.take() if self._ahead else self._gather(self._batch)
        self._batch += 1
        return batch_BW

    def sample(self, n: int) -> Tensor:
        if self._order is None:
            return torch.empty(0, 0)
        rows = self._training.held
        return self._training.gather(np.arange(0, rows, max(1, rows // n), dtype=np.int64)[:n])

    def held_out(self) -> Tensor:
        return self._held_out.gather(np.arange(self._held_out.held, dtype=np.int64))

    def close(self) -> None:
        if self._ahead:
            self._ahead.close()
        if self._filling:
            # Now, not when nobody refers to it any more: it keeps what it harvested, and lets others write.
            self._filling.close()
        self._harvester = None
        self._training.close()
        self._held_out.close()

    def _gather(self, batch: int) -> Tensor:
        """Batch number ``batch`` of all epochs; fewer than B rows are left over at the end of each."""
        assert self._order is not None
        epoch, served = divmod(batch, self._order.rows // self._batch_size)
        rows = self._order.at(epoch, served * self._batch_size, self._batch_size)
        # Where in its batch a row stands means nothing, and in ascending order they are read in one go.
        batch_BW = self._training.gather(np.sort(rows))
        return batch_BW.pin_memory() if self._pinned else batch_BW


class _ReadAhead:
    """Gathers batches in their order on a thread of its own."""

    def __init__(self, gather: Callable[[int], Tensor], first: int) -> None:
        self._gather = gather
        self._batches: queue.Queue[Tensor | BaseException] = queue.Queue(_READ_AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(first,), name="read-ahead", daemon=True)
        self._thread.start()

    def take(self) -> Tensor:
        found = self._batches.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        self._closed.set()
        while self._thread.is_alive():
            while not self._batches.empty():
                self._batches.get_nowait()
            self._thread.join(0.05)

    def _run(self, batch: int) -> None:
        while not self._closed.is_set():
            try:
                found: Tensor | BaseException = self._gather(batch)
            except BaseException as error:  # handed to who takes the batches, on whose thread it belongs
                found = error
            self._batches.put(found)
            if isinstance(found, BaseException):
                return
            batch += 1


def _batch_of(position: Json, keys: dict[str, str]) -> int:
    if position.get("entries") != keys:
        raise UserError(
            "dataset",
            "the activations are not those of the checkpoint: the model, the dataset or how it is read has changed",
            "restore them, or start afresh",
        )
    return int(str(position["batch"]))
