"""An order of N rows that looks random and needs no memory: any part of it is computed from a few numbers.

Rows come in blocks of 64 that lie next to each other on disk. The blocks are permuted over the whole dataset, then cut
into windows, and within a window all rows are permuted. A window thus holds rows from everywhere, and its parts of the
disk are read once, in whole blocks, rather than again for every row. When everything fits into one window, each order
of the rows is as good as any other.

Both permutations are Feistel networks with cycle walking (Black and Rogaway 2002): nothing but integer arithmetic, so
every machine and version computes the same.
"""

from dataclasses import dataclass

import numpy as np

Rows = np.ndarray[tuple[int], np.dtype[np.int64]]

BLOCK = 64
_ROUNDS = 6


@dataclass(frozen=True)
class Permutation:
    """A permutation of 0 ... size-1 that ``key`` chooses."""

    size: int
    key: tuple[int, ...]

    def __call__(self, places: Rows) -> Rows:
        """What stands at each of ``places``."""
        half = max(1, ((self.size - 1).bit_length() + 1) // 2)
        keys = np.random.SeedSequence(self.key).generate_state(_ROUNDS, np.uint64)
        found = places.astype(np.uint64)
        outside = np.arange(len(found))
        # The network permutes the next larger power of four; what falls outside goes through it again.
        while len(outside):
            found[outside] = _feistel(found[outside], np.uint64(half), keys)
            outside = outside[found[outside] >= self.size]
        return found.astype(np.int64)


@dataclass(frozen=True)
class Order:
    """The order in which an epoch visits its rows."""

    rows: int
    window: int
    """Rows mixed with each other; a multiple of 64, unless it takes in everything."""
    seed: int

    def at(self, epoch: int, start: int, n: int) -> Rows:
        """The rows at places ``start`` to ``start + n`` of an epoch."""
        places = np.arange(start, start + n, dtype=np.int64)
        if self.rows <= self.window:
            return Permutation(self.rows, (self.seed, epoch))(places)
        window = self.window - self.window % BLOCK
        for index in range(start // window, (start + n - 1) // window + 1):
            begin = index * window
            inside = (places >= begin) & (places < begin + window)
            size = min(window, self.rows - begin)
            places[inside] = begin + Permutation(size, (self.seed, epoch, index))(places[inside] - begin)
        whole = self.rows // BLOCK
        slots, offsets = np.divmod(places, BLOCK)
        # Of a last block that is not whole there is only one; it keeps its place.
        moved = slots < whole
        slots[moved] = Permutation(whole, (self.seed, epoch, -1 % 2**32))(slots[moved])
        return slots * BLOCK + offsets


def _feistel(value: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for key in keys:
        left, right = right, left ^ (_scrambled(right ^ key) & mask)
    return (left << half) | right


def _scrambled(value: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of ``value`` (finaliser of splitmix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
