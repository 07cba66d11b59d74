"""The bound on an attempt's log: once it holds more than its quota, its middle is freed.

The run writes its log itself, with no pipe in between, so the bound is kept from outside, by punching a hole: the file
keeps its size, every byte offset stays valid for ever, and the disk gets the space back. What was dropped is one range
that only grows, from the end of the lines kept of the start. It is recorded, durably, *before* it is freed: a reader
that looks at the record after it has read can tell every zero of the hole from what the run wrote.

Blocking: call it off the event loop.
"""

import ctypes
import errno
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.tail import open_plain
from worker_image.contract.rundir import RunDir

LOOK_S = 1.0
"""Seconds between two looks at a log's size: what is written in between is what the quota may be exceeded by."""

Punch = Callable[[int, int, int], None]
"""Frees (descriptor, offset, length)."""

_HEAD_SHARE = 8
"""One part in so many of the quota is for the start of the log, which tells what the job is."""
_TAIL_SHARE = 2
"""One part in so many is kept of the newest when something is dropped."""
_LINE_SEARCH_BYTES = 65_536
"""How far from where the dropped part should begin or end a line may end, for the cut to be made there."""
_BLOCK_BYTES = 65_536
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_NO_HOLES = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})


class Dropped(BaseModel):
    """The part of a log that was freed: the bytes from ``offset`` up to ``next_offset``."""

    model_config = ConfigDict(frozen=True)

    offset: int = Field(ge=0)
    next_offset: int = Field(ge=0)
    quota_bytes: int = Field(gt=0)
    """The quota that was exceeded."""

    @property
    def size_bytes(self) -> int:
        return self.next_offset - self.offset


def read_dropped(run_dir: RunDir) -> Dropped | None:
    """What was freed of the log so far. Look *after* reading the log: what is freed later was read as it was."""
    try:
        return Dropped.model_validate_json(run_dir.dropped.read_bytes())
    except FileNotFoundError:
        return None


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Free these bytes of an open file; from now on they read as zeros. Raises: OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "fallocate"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    mode = ctypes.c_int(_PUNCH_HOLE | _KEEP_SIZE)
    if libc.fallocate(ctypes.c_int(descriptor), mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def can_punch(folder: Path, punch: Punch = punch_hole) -> bool:
    """Whether the filesystem of this folder can free the middle of a file. Raises: OSError if it cannot be written."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_BLOCK_BYTES))
        file.flush()
        try:
            punch(file.fileno(), 0, _BLOCK_BYTES)
        except OSError as error:
            if error.errno in _NO_HOLES:
                return False
            raise
    return True


@dataclass(frozen=True, slots=True)
class Excess:
    """A log was found to hold more than its quota."""

    size_bytes: int
    """How long it was."""
    dropped: Dropped | None
    """What was freed of it; none where the filesystem cannot free anything."""


class LogQuota:
    """Keeps one attempt's log within ``quota_bytes``; without a limit when that is 0."""

    def __init__(self, run_dir: RunDir, quota_bytes: int, punch: Punch = punch_hole) -> None:
        self._run_dir = run_dir
        self._quota_bytes = quota_bytes
        self._punch = punch
        self._due_at = 0.0
        self._hopeless = not quota_bytes
        self._looked = False
        self._dropping = False

    def due(self) -> bool:
        """Whether it is time to look again."""
        if self._hopeless or time.monotonic() < self._due_at:
            return False
        self._due_at = time.monotonic() + LOOK_S
        return True

    def enforce(self) -> Excess | None:
        """Free the middle of the log if it holds too much; what was found, if it is the first excess.

        A log that is no plain file any more, because the run replaced it, is left alone.

        Raises:
            OSError: the log or the record cannot be written.
        """
        if self._hopeless or (self._looked and self._is_short()):
            return None
        descriptor = open_plain(self._run_dir.log, os.O_RDWR)
        if descriptor is None:
            return None
        try:
            found = os.fstat(descriptor)
            # A second name for the file may be of something that is no log.
            return self._enforce(descriptor, found.st_size) if found.st_nlink == 1 else None
        finally:
            os.close(descriptor)

    def _is_short(self) -> bool:
        """Whether one look at the file's length tells that nothing is to be done."""
        try:
            return os.lstat(self._run_dir.log).st_size <= self._quota_bytes and not self._dropping
        except FileNotFoundError:
            return True

    def _enforce(self, descriptor: int, size: int) -> Excess | None:
        known = self._recorded(size)
        if known is not None and not self._looked:
            # A crash may have come between the record and the hole.
            self._punch(descriptor, known.offset, known.size_bytes)
        self._looked, self._dropping = True, known is not None
        if size - (known.size_bytes if known else 0) <= self._quota_bytes:
            return None
        if not can_punch(self._run_dir.path.parent, self._punch):
            self._hopeless = True
            return Excess(size, None)
        dropped = self._choice(descriptor, size, known)
        self._dropping = True
        _write_durably(self._run_dir.dropped, dropped.model_dump_json())
        # All of it, not only what is new: the run may have written into the hole.
        self._punch(descriptor, dropped.offset, dropped.size_bytes)
        return None if known else Excess(size, dropped)

    def _recorded(self, size: int) -> Dropped | None:
        """What was dropped before, as far as the file still reaches: the run may have cut it."""
        known = read_dropped(self._run_dir)
        if known is None or known.next_offset <= size:
            return known
        if size <= known.offset:
            self._run_dir.dropped.unlink()
            return None
        clipped = known.model_copy(update={"next_offset": size})
        _write_durably(self._run_dir.dropped, clipped.model_dump_json())
        return clipped

    def _choice(self, descriptor: int, size: int, known: Dropped | None) -> Dropped:
        """What to drop: all but the start and the newest half of the quota, at ends of lines where there are any near.

        Less than the quota stays, so that a steady writer does not make every look a drop.
        """
        search = min(_LINE_SEARCH_BYTES, self._quota_bytes // _HEAD_SHARE)
        if known is None:
            start = self._quota_bytes // _HEAD_SHARE
            before = os.pread(descriptor, search, start - search)
            start -= len(before) - (before.rfind(b"\n") + 1 or len(before))
        else:
            start = known.offset
        end = size - self._quota_bytes // _TAIL_SHARE
        end += os.pread(descriptor, search, end).find(b"\n") + 1
        return Dropped(offset=start, next_offset=end, quota_bytes=self._quota_bytes)


def _write_durably(path: Path, text: str) -> None:
    """Replace the file at once, on disk when this returns."""
    draft = path.with_suffix(".tmp")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
