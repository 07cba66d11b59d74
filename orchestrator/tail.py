"""Reading files that others append to, by byte offset. Blocking: call it off the event loop."""

import codecs
import errno
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator import packed

_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EACCES})
"""Absent; a directory; a link, as ``O_NOFOLLOW`` tells of it; a socket; closed to us by the job that owns it."""
_BLOCK_BYTES = 65_536

WHOLE: Final = sys.maxsize
"""As a limit: all that there is."""

LONGEST_LINE = 16 << 20
"""Bytes; no event is that long."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a growing file."""

    data: bytes
    offset: int
    """Of the first byte."""
    size_bytes: int
    """The file's size when it was read."""

    @property
    def next_offset(self) -> int:
        return self.offset + len(self.data)


def open_plain(path: Path, mode: int = os.O_RDONLY) -> int | None:
    """A descriptor of the file; none when it is absent or no plain file.

    A job owns its run directory: what it put in place of a file is neither followed (a link to a file it may not
    read) nor waited for (a pipe).
    """
    try:
        descriptor = os.open(path, mode | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def read_piece(path: Path, offset: int, limit: int) -> Piece:
    """At most ``limit`` bytes from ``offset``; none when the file is absent, no plain file, or not that long."""
    descriptor = open_plain(path)
    if descriptor is None:
        # What has been archived is read from its packed form, by the same offsets.
        return Piece(*(packed.read(path, offset, limit) or (b"", 0, 0)))
    try:
        size = os.fstat(descriptor).st_size
        start = min(offset, size)
        return Piece(_pread(descriptor, min(limit, size - start), start), start, size)
    finally:
        os.close(descriptor)


def _pread(descriptor: int, wanted: int, offset: int) -> bytes:
    """That many bytes, or fewer where the file ends; the system may give fewer at once."""
    data = os.pread(descriptor, wanted, offset)
    while data and len(data) < wanted and (more := os.pread(descriptor, wanted - len(data), offset + len(data))):
        data += more
    return data


def read_lines(path: Path, offset: int, limit: int) -> tuple[list[bytes], int]:
    """The whole lines that begin at ``offset`` within ``limit`` bytes, and the offset after them.

    A line still being written is left for the next time; one longer than ``limit`` is read on until it ends, or passed
    over when it exceeds ``LONGEST_LINE``.
    """
    piece = read_piece(path, offset, limit)
    while b"\n" not in piece.data and piece.next_offset < piece.size_bytes:
        if limit >= LONGEST_LINE:
            return [], piece.next_offset
        limit *= 2
        piece = read_piece(path, offset, limit)
    end = piece.data.rfind(b"\n") + 1
    return piece.data[:end].split(b"\n")[:-1], piece.offset + end


def read_last_lines(path: Path, lines: int, limit: int) -> Piece:
    """The last ``lines`` lines, or as many of them as ``limit`` bytes hold."""
    size = read_piece(path, 0, 0).size_bytes
    if lines <= 0:
        return Piece(b"", size, size)
    block = min(_BLOCK_BYTES, limit)
    while True:
        piece = read_piece(path, max(0, size - block), limit)
        cut = _start_of_last(piece.data, lines)
        if cut is not None:
            return Piece(piece.data[cut:], piece.offset + cut, piece.size_bytes)
        if piece.offset == 0 or block >= limit:
            return piece
        block = min(4 * block, limit)


def _start_of_last(data: bytes, lines: int) -> int | None:
    """Where the last ``lines`` lines begin; none when so many do not end in ``data``."""
    cut = len(data) - data.endswith(b"\n")
    for _ in range(lines):
        cut = data.rfind(b"\n", 0, cut)
        if cut < 0:
            return None
    return cut + 1


def whole_characters(data: bytes) -> int:
    """How many leading bytes of ``data`` end on a character boundary, so that no UTF-8 character is cut in two.

    Bytes that are not UTF-8 at all count as whole.
    """
    # No character is longer than four bytes, so one that is cut begins in the last three.
    for tail in range(1, min(3, len(data)) + 1):
        if data[-tail] & 0xC0 != 0x80:
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
            decoder.decode(data[-tail:])
            return len(data) - len(decoder.getstate()[0])
    return len(data)
