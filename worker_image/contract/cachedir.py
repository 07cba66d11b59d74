"""The directory of the activation cache: what it holds, what of that is in use, and letting go of the rest.

::

    entries/<key>/                         of one hookpoint each
    entries/<key>/used                     its time is when the entry was last opened
    locks/<key>.use, locks/<key>.write     shared by who uses the entry; held by the one who writes
    locks/cache.room                       held by who makes room for a shard, until it is written

Workers fill it, and the orchestrator looks after it. Jobs can put what they like in place of what belongs here: no link
in it is followed. Locks lie outside the entries, because a lock on a deleted file holds nobody off.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)

_EVICTED = ".evicted"


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One entry as it lies on disk."""

    name: str
    """Its key, with a suffix where its deletion was cut short."""
    size_bytes: int
    used_at: float
    """Seconds since the epoch; when it was written, where it was never opened again."""


class CacheDir:
    """Paths, locks and entries of the cache in a directory, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = path / "entries"
        self.locks = path / "locks"

    def look(self) -> list[CacheEntry]:
        """What is there, used longest ago first."""
        found = []
        with suppress(FileNotFoundError, NotADirectoryError), self._opened(self.entries) as entries:
            for name in os.listdir(entries):
                with suppress(FileNotFoundError, NotADirectoryError):
                    found.append(_entry(name, entries))
        return sorted(found, key=lambda entry: (entry.used_at, entry.name))

    @property
    def size_bytes(self) -> int:
        """Of all entries together."""
        return sum(entry.size_bytes for entry in self.look())

    def lock(self, key: str, kind: Literal["use", "write", "room"], how: int) -> int:
        """Descriptor of a lock, taken as ``how`` says (of ``fcntl.flock``) and held until it is closed.

        Raises:
            BlockingIOError: another has it, and ``how`` is not to wait.
            OSError: there is no directory for locks, or this user may not write there.
        """
        with self._opened(self.locks) as locks:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(f"{key}.{kind}", flags, 0o666, dir_fd=locks)
        with suppress(PermissionError):  # another user's, who opened it to all
            os.fchmod(descriptor, 0o666)
        try:
            fcntl.flock(descriptor, how)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def is_used(self, entry: CacheEntry) -> bool:
        """Whether somebody uses it; also where that cannot be found out."""
        with self._unused(entry) as unused:
            return not unused

    def evict(self, entry: CacheEntry) -> int:
        """Delete it, unless somebody uses it; how many bytes that gave back."""
        with self._unused(entry) as unused:
            if not unused:
                return 0
            try:
                with self._opened(self.entries) as entries:
                    return entry.size_bytes - _delete(entry.name, entries)
            except OSError as error:
                _told(error)
                return 0

    @contextmanager
    def _unused(self, entry: CacheEntry) -> Iterator[bool]:
        """Whether nobody uses it, nor does meanwhile."""
        try:
            descriptor = self.lock(_key_of(entry.name), "use", fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            logger.warning("whether the entry %s of the activation cache is in use is not known: %s", entry.name, error)
            yield False
            return
        try:
            yield True
        finally:
            os.close(descriptor)

    @contextmanager
    def _opened(self, folder: Path) -> Iterator[int]:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _entry(name: str, entries: int) -> CacheEntry:
    """
    Raises:
        FileNotFoundError: it is gone.
        NotADirectoryError: it is no directory.
    """
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entries)
    try:
        used_at = os.stat(descriptor).st_mtime
        total = 0
        for file in os.listdir(descriptor):
            with suppress(FileNotFoundError):  # on its way out
                status = os.stat(file, dir_fd=descriptor, follow_symlinks=False)
                total += status.st_size
                if file == "used":
                    used_at = status.st_mtime
        return CacheEntry(name, total, used_at)
    finally:
        os.close(descriptor)


def _key_of(name: str) -> str:
    return name.removesuffix(_EVICTED)


def _delete(name: str, entries: int) -> int:
    """How many bytes are left of it."""
    # Renamed first: a deletion cut short must not leave an entry with a hole.
    retired = _key_of(name) + _EVICTED
    if name != retired:
        shutil.rmtree(retired, onerror=lambda *failed: _told(failed[2][1]), dir_fd=entries)
        with suppress(FileNotFoundError):  # another was faster
            os.rename(name, retired, src_dir_fd=entries, dst_dir_fd=entries)
    shutil.rmtree(retired, onerror=lambda *failed: _told(failed[2][1]), dir_fd=entries)
    with suppress(FileNotFoundError):
        return _entry(retired, entries).size_bytes
    return 0


def _told(error: BaseException) -> None:
    if not isinstance(error, FileNotFoundError):
        logger.warning("not all that is to go of the activation cache can be deleted: %s", error)
