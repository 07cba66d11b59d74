"""Filling cache entries: harvesting what they lack, for all hookpoints in the same forward passes.

Rows are harvested in chunks that begin at multiples of their size, and a pass of the language model holds sequences of
one chunk. So which sequences share a pass, which moves the last bits of their activations, follows from the row alone:
not from where an earlier harvest stopped, was killed, or had enough.

Shapes: N rows, D = width of one hookpoint.
"""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from worker_image.errors import UserError
from worker_image.lm.cache import Entry, Waypoint, Writer
from worker_image.lm.harvest import Harvester
from worker_image.lm.hookpoints import Hookpoint
from worker_image.lm.tokens import Cursor, Sequence, Stream

_CHUNK_TOKENS = 16_384
"""Taken from the dataset at once: what is lost when harvesting is interrupted."""
_PASSES = 4
"""... but at least so many passes of the language model, or they would be smaller than it can take."""
_MOST_CHUNK_TOKENS = 65_536
"""... unless that is more than main memory should hold beside a shard that is being written."""
_WAIT_S = 0.1
"""Between two looks at what another job has written."""


@dataclass(frozen=True)
class Gained:
    """Rows that the entries have more than before."""

    rows: int
    here: bool
    """Harvested here; written by another job, which was waited for, when not."""


def filled(entries: Mapping[Hookpoint, Entry], rows: int) -> bool:
    """Whether each has ``rows``, or all that the dataset gives."""
    return all(entry.ended or entry.rows >= rows for entry in entries.values())


def missing(entries: Mapping[Hookpoint, Entry], rows: int) -> int:
    """Rows that have to go through the language model, were the dataset endless."""
    return max((rows - entry.rows for entry in entries.values() if not entry.ended), default=0)


def held(entries: Mapping[Hookpoint, Entry], rows: int) -> int:
    """Rows that each has, of ``rows``."""
    return min(rows, *(entry.rows for entry in entries.values()))


def fill(
    entries: Mapping[Hookpoint, Entry], stream: Stream, harvester: Callable[[], Harvester], rows: int
) -> Generator[Gained]:
    """Have each entry hold ``rows``, or all there are; yields what each pass of the language model gave.

    ``harvester`` is asked for only when something is missing. While another job writes one of the entries it yields
    what that wrote, often nothing, and ends as soon as there is enough. Closing it keeps what was harvested in whole
    chunks.

    Raises:
        UserError: the activations cannot be had, or find no room.
    """
    with ExitStack() as locks:
        before = held(entries, rows)
        writers: dict[Hookpoint, Writer] = {}
        # In one order for everybody, so that no two jobs wait for each other.
        for hookpoint, entry in sorted(entries.items(), key=lambda item: item[1].recipe.key):
            while hookpoint not in writers:
                with suppress(BlockingIOError):
                    writers[hookpoint] = locks.enter_context(entry.writing())
                    continue
                time.sleep(_WAIT_S)
                for each in entries.values():
                    each.refresh()
                now = held(entries, rows)
                yield Gained(now - before, here=False)
                before = now
                if filled(entries, rows):
                    return
        if (now := held(entries, rows)) > before:
            yield Gained(now - before, here=False)
        yield from _harvest(writers, stream, harvester, rows)


def _harvest(
    writers: Mapping[Hookpoint, Writer], stream: Stream, harvester: Callable[[], Harvester], rows: int
) -> Generator[Gained]:
    """What they lack, chunk by chunk."""
    reader = _Reader(stream)
    while behind := {
        hookpoint: writer for hookpoint, writer in writers.items() if not writer.ended and writer.rows < rows
    }:
        size = max(_CHUNK_TOKENS, min(_PASSES * harvester().batch_tokens, _MOST_CHUNK_TOKENS))
        begin = min(writer.rows for writer in behind.values())
        chunk_end = begin - begin % size + size
        group = {hookpoint: writer for hookpoint, writer in behind.items() if writer.rows < chunk_end}
        reader.seek(chunk_end - size, [writer.waypoint for writer in group.values()])
        chunk = reader.take(chunk_end)
        if not chunk.sequences and begin == 0:
            raise UserError("dataset", "it holds no training tokens", "use a larger dataset")
        end = min(rows, chunk.after.row)
        blocks = yield from _passes(harvester().only(tuple(group)), chunk, begin, end)
        whole = end == chunk.after.row
        for writer, block_ND in zip(group.values(), blocks, strict=True):
            writer.append(
                block_ND[writer.rows - chunk.before.row : end - chunk.before.row],
                chunk.after if whole else chunk.before,
                ended=whole and chunk.last,
            )


@dataclass(frozen=True)
class _Chunk:
    sequences: list[Sequence]
    before: Waypoint
    after: Waypoint
    last: bool
    """Whether the dataset ends with it."""


class _Reader:
    """Takes chunks off a stream, at rows of its choice."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._cursor: Cursor | None = None
        self._row = 0
        """Of the cursor."""

    def seek(self, row: int, waypoints: list[Waypoint]) -> None:
        """Go to ``row``; to the first of the waypoints when all are behind it, as a chunk of another size leaves
        them."""
        start = max(
            (waypoint for waypoint in waypoints if waypoint.row <= row),
            key=lambda waypoint: waypoint.row,
            default=min(waypoints, key=lambda waypoint: waypoint.row),
        )
        if self._cursor is None or not start.row <= self._row <= max(row, start.row):
            self._cursor, self._row = Cursor(self._stream, start.position), start.row
        if self._row < row:
            self.take(row)

    def take(self, end: int) -> _Chunk:
        """As far as row ``end``, or the end of the dataset."""
        assert self._cursor is not None
        before = Waypoint(self._row, self._cursor.position)
        sequences = self._cursor.take(end - self._row, wrap=False)
        self._row += sum(len(sequence.kept) for sequence in sequences)
        position = self._cursor.position
        return _Chunk(sequences, before, Waypoint(self._row, position), last=position.epoch > 0)


def _passes(harvester: Harvester, chunk: _Chunk, begin: int, end: int) -> Generator[Gained, None, list[Tensor]]:
    """The activations of a chunk, (N, D) for each hookpoint, in the order of its rows. Passes without any of the rows
    from ``begin`` to ``end`` are left out, and what they would have given is not set."""
    begins = [chunk.before.row]
    for sequence in chunk.sequences:
        begins.append(begins[-1] + len(sequence.kept))
    wanted = [index for index in range(len(chunk.sequences)) if begins[index] < end and begins[index + 1] > begin]
    blocks: list[Tensor] = []
    for indices, parts in harvester.passes(chunk.sequences, frozenset(wanted)):
        if not blocks:
            blocks = [torch.empty(begins[-1] - begins[0], part.shape[1], dtype=part.dtype) for part in parts]
        rows = torch.cat([torch.arange(begins[index], begins[index + 1]) for index in indices])
        for block_ND, part in zip(blocks, parts, strict=True):
            block_ND[rows - begins[0]] = part.cpu()
        yield Gained(int(((rows >= begin) & (rows < end)).sum()), here=True)
    return blocks
