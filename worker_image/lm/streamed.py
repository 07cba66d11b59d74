"""Batches harvested as training goes: one buffer after the other, nothing on disk.

Shapes: B = batch_size tokens, N tokens of a buffer, W = width of all hookpoints side by side.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from worker_image.lm.batches import Json, StallClock
from worker_image.lm.buffer import DataPosition, ShuffledBuffer
from worker_image.lm.harvest import Columns, Harvester
from worker_image.lm.tokens import HeldOut, Sequence, TokenStream

_LOOK_S = 0.05
"""Between two looks at whether the next buffer is full."""


class StreamedBatches:
    """Fills a buffer with activations, serves it shuffled, fills the next.

    With ``prefetch`` the next buffer is filled on another thread while one is served, in which case two are held. The
    batches are the same.
    """

    def __init__(
        self,
        stream: TokenStream,
        held_out: HeldOut,
        harvester: Callable[[], Harvester],
        *,
        batch_size: int,
        capacity: int,
        total_tokens: int,
        seed: int,
        prefetch: bool = False,
        release: Callable[[], None] = lambda: None,
        position: Json | None = None,
    ) -> None:
        """``release`` is called when the language model is no longer needed.

        Raises:
            UserError: there is less than one batch.
        """
        self._stream = stream
        self._sequences = held_out
        self._harvester: Callable[[], Harvester] | None = harvester
        self._capacity, self._batch_size = capacity, batch_size
        self._total_tokens, self._seed = total_tokens, seed
        self._prefetch, self._release = prefetch, release
        begin = DataPosition() if position is None else DataPosition.from_json(position["buffer"])
        self._buffer = self._made(begin)
        self._planned = self._buffer.plan()
        self._refill: _Refill | None = None
        self._held_out_NW: Tensor | None = None
        self._clock = StallClock()
        self._earlier = 0
        """Harvested before the present buffers."""
        self._to_harvest = sum(len(sequence.kept) for sequence in held_out.sequences) + self._buffer.left_to_harvest

    @property
    def position(self) -> Json:
        return {"source": "stream", "buffer": self._buffer.position.to_json()}

    @property
    def harvested(self) -> int:
        return self._earlier + (self._refill.harvested if self._refill else 0)

    @property
    def to_harvest(self) -> int:
        return self._to_harvest

    @property
    def distinct_tokens(self) -> int | None:
        return self._buffer.tokens if self._buffer.repeats else None

    @property
    def buffered_tokens(self) -> int:
        """Held in memory at once, at most."""
        return self._buffer.tokens * (2 if self._prefetch and not self._buffer.complete else 1)

    @property
    def ready(self) -> bool:
        return self._held_out_NW is not None and self._buffer.ready

    @property
    def stall_share(self) -> float:
        return self._clock.share

    def columns(self) -> Columns:
        assert self._harvester is not None
        return self._harvester().columns(self._sequences.sequences[0])

    def prepare(self) -> Iterator[int]:
        if self._held_out_NW is None:
            blocks: list[Tensor] = []
            for block in self._harvested(self._sequences.sequences):
                blocks.append(block)
                yield len(block)
            self._held_out_NW = torch.cat(blocks)
        if self._buffer.ready:
            return
        with self._clock.waiting():
            yield from self._await_refill() if self._refill else self._fill()
        self._clock.start()
        if self._buffer.complete:
            self._harvester = None
            self._release()
        elif self._prefetch:
            assert self._harvester is not None
            self._refill = _Refill(self._made(self._buffer.following), self._harvester())

    def next_batch(self) -> Tensor:
        return self._buffer.next_batch()

    def sample(self, n: int) -> Tensor:
        return self._buffer.sample(n)

    def held_out(self) -> Tensor:
        assert self._held_out_NW is not None
        return self._held_out_NW

    def close(self) -> None:
        if self._refill:
            self._refill.close()
        self._harvester = None

    def _made(self, position: DataPosition) -> ShuffledBuffer:
        return ShuffledBuffer(
            self._stream,
            capacity=self._capacity,
            batch_size=self._batch_size,
            total_tokens=self._total_tokens,
            seed=self._seed,
            position=position,
        )

    def _harvested(self, sequences: list[Sequence]) -> Iterator[Tensor]:
        assert self._harvester is not None
        for block_NW in self._harvester().harvest(sequences):
            self._earlier += len(block_NW)
            yield block_NW.cpu()

    def _fill(self) -> Iterator[int]:
        """Fill the buffer here and now."""
        planned, self._planned = self._planned, []
        for block_NW in self._harvested(planned or self._buffer.plan()):
            self._buffer.add(block_NW)
            yield len(block_NW)

    def _await_refill(self) -> Iterator[int]:
        """Go over to the buffer that is being filled."""
        refill = self._refill
        assert refill is not None
        before = refill.harvested
        while not refill.finished(_LOOK_S):
            yield refill.harvested - before
            before = refill.harvested
        self._buffer, self._refill = refill.buffer, None
        self._earlier += refill.harvested


class _Refill:
    """Fills a buffer on a thread of its own, and on a stream of its own where there is a GPU."""

    def __init__(self, buffer: ShuffledBuffer, harvester: Harvester) -> None:
        self.buffer = buffer
        self.harvested = 0
        self._harvester = harvester
        self._error: BaseException | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="harvest", daemon=True)
        self._thread.start()

    def finished(self, timeout_s: float) -> bool:
        """Whether the buffer is full, waiting for a moment; raises what kept it from being filled."""
        self._thread.join(timeout_s)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()) if torch.cuda.is_available() else nullcontext():
                for block_NW in self._harvester.harvest(self.buffer.plan()):
                    if self._closed.is_set():
                        return
                    self.buffer.add(block_NW.cpu())
                    self.harvested += len(block_NW)
        except BaseException as error:  # raised where the buffer is waited for
            self._error = error
