"""Filling cache entries: harvesting what they lack, for all hookpoints in the same forward passes where possible.

Shapes: N rows, D = width of one hookpoint.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor

from worker_image.errors import UserError
from worker_image.lm.cache import Entry, Writer
from worker_image.lm.harvest import Harvester
from worker_image.lm.hookpoints import Hookpoint
from worker_image.lm.tokens import Cursor, Sequence, Stream

_CHUNK_TOKENS = 16_384
"""Taken from the dataset at once: what is lost when harvesting is interrupted."""
_PASSES = 4
"""... but at least so many passes of the language model, or they would be smaller than it can take."""


def filled(entries: Mapping[Hookpoint, Entry], rows: int) -> bool:
    """Whether each has ``rows``, or all that the dataset gives."""
    return all(entry.ended or entry.rows >= rows for entry in entries.values())


def missing(entries: Mapping[Hookpoint, Entry], rows: int) -> int:
    """Rows that have to go through the language model, were the dataset endless."""
    return max((rows - entry.rows for entry in entries.values() if not entry.ended), default=0)


def fill(
    entries: Mapping[Hookpoint, Entry],
    stream: Stream,
    harvester: Callable[[], Harvester],
    rows: int,
    idle: Callable[[], None] = lambda: None,
) -> Generator[int]:
    """Have each entry hold ``rows``, or all there are; yields how many each pass of the language model gave.

    ``harvester`` is asked for only when something is missing. ``idle`` is called while another job writes one of the
    entries; what it wrote is not harvested again. Closing it keeps what was harvested in whole chunks.

    Raises:
        UserError: the activations cannot be had, or find no room.
    """
    with ExitStack() as locks:
        # In one order for everybody, so that no two jobs wait for each other.
        ordered = sorted(entries.items(), key=lambda item: item[1].recipe.key)
        writers = {hookpoint: locks.enter_context(entry.writing(idle)) for hookpoint, entry in ordered}
        cursor: Cursor | None = None
        while behind := {
            hookpoint: writers[hookpoint]
            for hookpoint in entries
            if not writers[hookpoint].ended and writers[hookpoint].rows < rows
        }:
            begin = min(writer.rows for writer in behind.values())
            group = {hookpoint: writer for hookpoint, writer in behind.items() if writer.rows == begin}
            # As far as the next one that has more already: from there on they are harvested together.
            end = min([rows, *(writer.rows for writer in behind.values() if writer.rows > begin)])
            made = harvester().only(tuple(group))
            wanted = min(end - begin, max(_CHUNK_TOKENS, _PASSES * made.batch_tokens))
            wanted = min(writer.room(wanted) for writer in group.values())
            start = next(iter(group.values())).next
            if cursor is None or cursor.position != start:
                cursor = Cursor(stream, start)
            sequences = cursor.take(wanted, wrap=False)
            if not sequences and begin == 0:
                raise UserError("dataset", "it holds no training tokens", "use a larger dataset")
            yield from _harvest(made, sequences, group, cursor)


def _harvest(
    harvester: Harvester, sequences: list[Sequence], group: Mapping[Hookpoint, Writer], cursor: Cursor
) -> Iterator[int]:
    """Append the activations of ``sequences``, in their order."""
    begins = [0]
    for sequence in sequences:
        begins.append(begins[-1] + len(sequence.kept))
    blocks: list[Tensor] = []
    for indices, parts in harvester.passes(sequences):
        if not blocks:
            blocks = [torch.empty(begins[-1], part.shape[1], dtype=part.dtype) for part in parts]
        rows = torch.cat([torch.arange(begins[index], begins[index + 1]) for index in indices])
        for block_ND, part in zip(blocks, parts, strict=True):
            block_ND[rows] = part.cpu()
        yield len(rows)
    for writer, block_ND in zip(group.values(), blocks, strict=True):
        writer.append(block_ND, cursor.position, ended=cursor.position.epoch > 0)
