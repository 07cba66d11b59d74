"""The activation cache: on disk, shared by every job that asks for the same activations, written once.

One entry holds the activations of one hookpoint, a row a token, in the order of the dataset. What it holds is told by
its name alone: the digest of everything that determines them (``Recipe``). An entry grows at its end, so a job that
wants fewer tokens reads the beginning of what a longer one wrote, and one that wants more goes on where that stopped.

::

    entries/<key>/entry.json               the recipe, width, type and rows a shard
    entries/<key>/shard-000000.safetensors activations (N, D), sums over them, where the dataset goes on
    entries/<key>/used, locks/             see ``CacheDir``
    digests/                               of files, see ``DigestBook``

A shard appears under its name only when it is whole and synced, so a writer that is killed leaves whole shards. The
last one may hold fewer rows than the others; it is replaced by a fuller one of the same beginning, and who has mapped
the old one keeps it.

Shapes: N rows, B rows asked for, D = width.
"""

import fcntl
import json
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worker_image.contract.cachedir import CacheDir
from worker_image.errors import UserError
from worker_image.lm.digest import DigestBook, digest_of
from worker_image.lm.shuffle import Rows
from worker_image.lm.statistics import Statistics
from worker_image.lm.tokens import START, Position
from worker_image.memory import MIB
from worker_image.sae.files import share_folder, sync_directory, sync_file

logger = logging.getLogger(__name__)

FORMAT = 1
_SHARD_BYTES = 256 * MIB
_SHARD_ROWS = 65_536
_KEPT_FREE_BYTES = 4096 * MIB
"""Of the disk: checkpoints and logs need room too."""
_MAPPED_SHARDS = 4096
"""The kernel allows some 65,000 mappings a process."""


class CacheFull(UserError):
    """The cache may not grow, and all that could be evicted was."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the activations of one entry."""

    model: str
    """Digest of the model's directory (weights, configuration, tokenizer), or the revision of a hub id."""
    dataset: str
    """Digest of its files."""
    text_field: str
    part: str
    """``training`` or ``held_out``."""
    held_out: str
    """Digest of which documents are held out, and of how many of their tokens are used where ``part`` says so."""
    context_length: int
    packing: bool
    bos: str
    drop_first: bool
    hookpoint: str
    """Place in the model, however the user wrote it."""
    model_dtype: str
    dtype: str
    """Of the activations as they are stored."""

    @property
    def key(self) -> str:
        return digest_of({"format": FORMAT, **asdict(self)})[:32]


@dataclass(frozen=True)
class Waypoint:
    """A row whose place in the dataset is known, so that reading can go on there."""

    row: int = 0
    position: Position = START


@dataclass(frozen=True)
class _Layout:
    """What the rows of an entry look like."""

    width: int
    shard_rows: int


class ActivationCache:
    """The cache in a directory, of ``max_bytes`` at most (the disk's own limit when None)."""

    def __init__(self, folder: Path, max_bytes: int | None = None, *, shard_rows: int = _SHARD_ROWS) -> None:
        self.folder = folder
        self.digests = DigestBook(folder / "digests")
        self.shard_rows = shard_rows
        self._max_bytes = max_bytes
        self._directory = CacheDir(folder)

    def open(self, recipe: Recipe) -> "Entry":
        """The entry of this recipe, empty if there is none yet. It is not evicted until it is closed."""
        for shared in (self.folder, self._directory.locks, self._directory.entries):
            share_folder(shared)
        folder = self._directory.entries / recipe.key
        return Entry(self, folder, recipe, self._directory.lock(recipe.key, "use", fcntl.LOCK_SH))

    @property
    def size_bytes(self) -> int:
        """Of all entries together."""
        return self._directory.size_bytes

    def fits(self, n_bytes: int) -> bool:
        """Whether so much more finds room, if need be by evicting whatever nobody uses."""
        spare = sum(entry.size_bytes for entry in self._directory.look() if not self._directory.is_used(entry))
        # What is there already is of use however full the disk has become.
        return n_bytes == 0 or n_bytes <= self._left() + spare

    @contextmanager
    def room(self, n_bytes: int) -> Iterator[None]:
        """So much may be written inside: what was used longest ago is evicted for it. Others who write wait meanwhile,
        or each would count on the same room.

        Raises:
            CacheFull: there is not enough that nobody uses.
        """
        lock = self._directory.lock("cache", "room", fcntl.LOCK_EX)
        try:
            self._make_room(n_bytes)
            yield
        finally:
            os.close(lock)

    def _make_room(self, n_bytes: int) -> None:
        for entry in self._directory.look():
            if n_bytes <= self._left():
                return
            self._directory.evict(entry)
        if n_bytes > self._left():
            bound = f"its limit is {self._max_bytes // MIB} MiB" if self._max_bytes is not None else "the disk is full"
            raise CacheFull(
                "cache",
                f"the activation cache has no room for {n_bytes // MIB + 1} MiB more: {bound}, and the rest is in use",
                "set cache to off, lower max_tokens, or raise SAEFORGE_ACTIVATION_CACHE_MB",
            )

    def writer_lock(self, key: str) -> int:
        """Descriptor of the lock of who writes the entry.

        Raises:
            BlockingIOError: another has it.
        """
        return self._directory.lock(key, "write", fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _left(self) -> int:
        """Bytes that may be written before something has to go."""
        share_folder(self._directory.entries)
        disk = shutil.disk_usage(self._directory.entries).free - _KEPT_FREE_BYTES
        return disk if self._max_bytes is None else min(disk, self._max_bytes - self.size_bytes)


class Entry:
    """The activations of one hookpoint, as far as they are there."""

    def __init__(self, cache: ActivationCache, folder: Path, recipe: Recipe, lock: int) -> None:
        self._cache = cache
        self._folder = folder
        self._lock: int | None = lock
        self._maps: OrderedDict[int, Tensor] = OrderedDict()
        self._layout: _Layout | None = None
        self.recipe = recipe
        self.rows = 0
        self.waypoint = Waypoint()
        """Behind the last row, or before it by less than what is harvested at once."""
        self.ended = False
        """Whether the dataset has no more."""
        self.refresh()
        if self.rows:
            self._stamp()

    @property
    def width(self) -> int | None:
        """D; unknown while nothing was ever written."""
        return self._layout.width if self._layout else None

    @property
    def size_bytes(self) -> int:
        return _size(self._folder)

    def refresh(self) -> None:
        """Look at what is there now."""
        with suppress(FileNotFoundError):
            content = json.loads((self._folder / "entry.json").read_bytes())
            self._layout = _Layout(content["width"], content["shard_rows"])
        shards = sorted(self._folder.glob("shard-*.safetensors"))
        if not shards or self._layout is None:
            return
        with _opened(shards[-1]) as file:
            noted = file.metadata()
        self.rows = (len(shards) - 1) * self._layout.shard_rows + int(noted["rows"])
        # Older shards end where the dataset goes on.
        row = int(noted.get("next_row", self.rows))
        self.waypoint = Waypoint(row, Position.from_json(json.loads(noted["next"])))
        self.ended = noted["ended"] == "yes"
        self._maps.pop(len(shards) - 1, None)

    def gather(self, rows: Rows) -> Tensor:
        """(B, D), as stored, of ``rows`` in ascending order."""
        assert self._layout is not None
        shards, offsets = np.divmod(rows, self._layout.shard_rows)
        begins = np.flatnonzero(np.diff(shards, prepend=-1))
        parts = [
            self._mapped(int(shards[group[0]]))[torch.from_numpy(offsets[group])]
            for group in np.split(np.arange(len(rows)), begins[1:])
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def statistics(self, rows: int) -> Statistics:
        """Of the first ``rows``."""
        assert self._layout is not None
        whole, rest = divmod(rows, self._layout.shard_rows)
        found = Statistics.none(self._layout.width)
        for index in range(whole):
            with _opened(self._shard(index)) as file:
                found += Statistics.stored(file)
        return found + Statistics.of(self._mapped(whole)[:rest]) if rest else found

    def close(self) -> None:
        """Let it be evicted."""
        if self._lock is not None:
            self._maps.clear()
            if self.rows:
                self._stamp()
            os.close(self._lock)
            self._lock = None

    @contextmanager
    def writing(self) -> Iterator["Writer"]:
        """Be the one who writes.

        Raises:
            BlockingIOError: another is.
        """
        lock = self._cache.writer_lock(self.recipe.key)
        try:
            self.refresh()
            for draft in self._folder.glob("*.draft"):
                draft.unlink()
            writer = Writer(self._cache, self)
            try:
                yield writer
            except BaseException:
                # Told to pause, most likely: what is there already need not be harvested again.
                try:
                    writer.flush()
                    writer.settle()
                except (OSError, UserError) as error:
                    logger.warning("what was harvested last is not kept: %s", error)
                raise
            else:
                writer.flush()
                writer.settle()
            finally:
                writer.close()
        finally:
            os.close(lock)

    def _mapped(self, index: int) -> Tensor:
        """The activations of a shard, mapped: pages are read when they are touched."""
        if index in self._maps:
            self._maps.move_to_end(index)
            return self._maps[index]
        with _opened(self._shard(index)) as file:
            mapped = file.get_tensor("activations")
        self._maps[index] = mapped
        if len(self._maps) > _MAPPED_SHARDS:
            self._maps.popitem(last=False)
        return mapped

    def _shard(self, index: int) -> Path:
        return self._folder / f"shard-{index:06}.safetensors"

    def _stamp(self) -> None:
        used = self._folder / "used"
        used.touch()
        with suppress(PermissionError):
            used.chmod(0o666)

    def _begin(self, width: int, itemsize: int) -> _Layout:
        """Settle what the rows look like."""
        by_bytes = 2 ** max(10, (_SHARD_BYTES // (width * itemsize)).bit_length() - 1)
        layout = _Layout(width, min(self._cache.shard_rows, by_bytes))
        share_folder(self._folder)
        draft = self._folder / "entry.json.draft"
        draft.unlink(missing_ok=True)
        draft.write_text(json.dumps({"format": FORMAT, **asdict(layout), **asdict(self.recipe)}, indent=2))
        sync_file(draft)
        draft.rename(self._folder / "entry.json")
        self._layout = layout
        return layout


class Writer:
    """Appends rows to an entry. One shard is written on a thread of its own while the next is filled."""

    def __init__(self, cache: ActivationCache, entry: Entry) -> None:
        self._cache = cache
        self.entry = entry
        self.rows = entry.rows
        """With those not flushed yet."""
        self.waypoint = entry.waypoint
        self.ended = entry.ended
        self._pending: list[Tensor] = []
        self._thread = ThreadPoolExecutor(1, "shard-writer")
        self._writing: Future[None] | None = None

    def append(self, acts_ND: Tensor, waypoint: Waypoint, *, ended: bool) -> None:
        """Add rows; ``waypoint`` is where to go on behind them, ``ended`` whether the dataset does not."""
        layout = self.entry._layout or self.entry._begin(acts_ND.shape[1], acts_ND.element_size())
        room = layout.shard_rows - self.rows % layout.shard_rows
        *whole, last_ND = acts_ND.cpu().tensor_split(tuple(range(room, len(acts_ND), layout.shard_rows)))
        for part_ND in whole:
            self._add(part_ND)
            self.flush()
        self._add(last_ND)
        self.waypoint, self.ended = waypoint, ended
        if self.rows % layout.shard_rows == 0 or ended:
            self.flush()

    def _add(self, acts_ND: Tensor) -> None:
        self._pending.append(acts_ND)
        self.rows += len(acts_ND)

    def flush(self) -> None:
        """Begin to write what was appended, in a shard that is whole or not there.

        Raises:
            CacheFull: it, or the one before, finds no room.
        """
        self.settle()
        if self.rows == self.entry.rows and self.ended == self.entry.ended:
            return
        entry = self.entry
        layout = entry._layout
        assert layout is not None
        index = max(0, self.rows - 1) // layout.shard_rows
        before = entry.rows - index * layout.shard_rows
        parts = [entry._mapped(index), *self._pending] if before > 0 else self._pending
        self._pending = []
        noted = {
            "next": json.dumps(self.waypoint.position.to_json()),
            "next_row": str(self.waypoint.row),
            "ended": "yes" if self.ended else "no",
        }
        self._writing = self._thread.submit(self._write, entry._shard(index), parts, noted)

    def settle(self) -> None:
        """Wait for what is being written. Raises as ``flush`` does."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            try:
                writing.result()
            except BaseException:
                # Nothing may follow rows that are not there.
                self._pending.clear()
                self.rows, self.ended = self.entry.rows, self.entry.ended
                raise
            self.entry.refresh()

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown()

    def _write(self, final: Path, parts: list[Tensor], noted: dict[str, str]) -> None:
        acts_ND = torch.cat(parts)
        tensors = {"activations": acts_ND, **Statistics.of(acts_ND).tensors()}
        noted = noted | {"rows": str(len(acts_ND))}
        draft = final.with_suffix(".draft")
        draft.unlink(missing_ok=True)  # a killed writer's, perhaps under another user
        with self._cache.room(acts_ND.nbytes):
            save_file(tensors, draft, metadata=noted)
            draft.chmod(0o644)  # safetensors makes files that only their owner may read
            sync_file(draft)
            draft.rename(final)
        sync_directory(final.parent)


@contextmanager
def _opened(shard: Path) -> Iterator[safe_open]:
    """
    Raises:
        UserError: it is not what was written.
    """
    try:
        with safe_open(shard, "pt") as file:
            yield file
    except SafetensorError as error:
        raise UserError(
            "cache", f"{shard} is damaged: {error}", f"delete {shard.parent}; what it held is harvested again"
        ) from error


def _size(folder: Path) -> int:
    """Bytes of the files in it, some of which may be on their way out."""
    total = 0
    with suppress(FileNotFoundError):
        for file in os.scandir(folder):
            with suppress(FileNotFoundError):
                total += file.stat().st_size
    return total
