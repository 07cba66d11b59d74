"""The shuffled buffer: activations of many documents mixed before they are learned from, replayable from a few numbers.

The stream of training tokens is taken in *generations*. One generation fills the buffer, is shuffled by a generator
seeded with (seed, generation), and is served in batches. When all training tokens fit, they are harvested once and
every epoch is a generation that only shuffles them anew (the fewer than ``batch_size`` tokens left over at its end
differ each time).

Shapes: B = batch_size tokens, N tokens in the buffer, D = width.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker_image.errors import UserError
from worker_image.lm.tokens import START, Position, Sequence, TokenStream


@dataclass(frozen=True)
class DataPosition:
    """Where the data stands: enough to continue with the very next batch."""

    generation: int = 0
    served: int = 0
    """Batches of this generation already served."""
    start: Position = START
    """Where in the stream this generation's tokens begin."""

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "DataPosition":
        return cls(data["generation"], data["served"], Position.from_json(data["start"]))


class ShuffledBuffer:
    """Serves shuffled batches of activations from a token stream.

    Use: ``plan`` a generation, ``add`` its activations block by block, then take ``next_batch`` while ``ready``.
    """

    def __init__(
        self,
        stream: TokenStream,
        *,
        capacity: int,
        batch_size: int,
        total_tokens: int,
        seed: int,
        position: DataPosition,
    ) -> None:
        """``total_tokens``: how many all of training will ask for, so that nothing is harvested in vain."""
        self._stream = stream
        self._capacity = capacity
        self._batch_size = batch_size
        self._total_tokens = total_tokens
        self._seed = seed
        self.position = position
        self._next_start = position.start
        self._acts_ND = torch.empty(0, 0)
        self._order_N = torch.empty(0, dtype=torch.int64)
        self._expected = 0
        self._filled = 0
        self.repeats = False
        """Whether it holds every training token, so that each further generation only shuffles them."""

    @property
    def ready(self) -> bool:
        """Whether ``next_batch`` has one to give."""
        return 0 < self._expected == self._filled

    @property
    def tokens(self) -> int:
        """Tokens of the generation that was planned last."""
        return self._expected

    @property
    def left_to_harvest(self) -> int:
        """Tokens of the planned generation and all later ones that have to go through the language model."""
        return self._expected if self.repeats else self._total_tokens - self._tokens_before()

    @property
    def complete(self) -> bool:
        """Whether nothing is left to harvest once the planned generation is full."""
        return self.repeats or self._tokens_before() + self._expected >= self._total_tokens

    @property
    def following(self) -> DataPosition:
        """Where the generation after the planned one begins."""
        return DataPosition(self.position.generation + 1, 0, self._next_start)

    def plan(self) -> list[Sequence]:
        """The sequences whose activations fill the present generation.

        Raises:
            UserError: they hold less than one batch.
        """
        start = self.position.start
        sequences: list[Sequence] = []
        after = start
        if start == START:
            sequences, after = self._stream.take(start, min(self._capacity, self._total_tokens), wrap=False)
            self.repeats = after.epoch > 0
        if not self.repeats and (start != START or self._total_tokens > self._capacity):
            size = min(self._whole_batches, self._total_tokens - self._tokens_before())
            sequences, after = self._stream.take(start, size, wrap=True)
        self._next_start = start if self.repeats else after
        self._expected = sum(len(sequence.kept) for sequence in sequences)
        self._filled = 0
        if self._expected < self._batch_size:
            raise UserError(
                "dataset",
                f"{self._expected} training tokens are less than one batch of {self._batch_size}",
                "use a larger dataset, or lower batch_size and held_out_tokens",
            )
        return sequences

    def add(self, acts_ND: Tensor) -> None:
        """Append activations; the generation is shuffled when it is full."""
        if self._acts_ND.shape != (self._expected, acts_ND.shape[1]):
            self._acts_ND = torch.empty(self._expected, acts_ND.shape[1], dtype=acts_ND.dtype)
        self._acts_ND[self._filled : self._filled + len(acts_ND)] = acts_ND
        self._filled += len(acts_ND)
        if self.ready:
            self._shuffle()

    def sample(self, n: int) -> Tensor:
        """Up to ``n`` activations of those added so far, spread evenly: (n, D). Changes nothing."""
        return self._acts_ND[: self._filled][:: max(1, self._filled // n)][:n]

    def next_batch(self) -> Tensor:
        """(B, D), and move on; past the last batch the next generation begins."""
        begin = self.position.served * self._batch_size
        batch_BD = self._acts_ND[self._order_N[begin : begin + self._batch_size]]
        self.position = replace(self.position, served=self.position.served + 1)
        if (self.position.served + 1) * self._batch_size > self._expected:
            self.position = self.following
            if self.repeats:
                self._shuffle()
            else:
                self._filled = 0
        return batch_BD

    @property
    def _whole_batches(self) -> int:
        return self._capacity - self._capacity % self._batch_size

    def _tokens_before(self) -> int:
        return self.position.generation * self._whole_batches

    def _shuffle(self) -> None:
        # One generator a generation, seeded by both numbers, so that resuming needs to replay nothing before it.
        seed = np.random.SeedSequence([self._seed, self.position.generation]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed >> 1))
        self._order_N = torch.randperm(self._expected, generator=generator)
