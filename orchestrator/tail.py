"""Reading files that others append to, by byte offset. Blocking: call it off the event loop."""

import codecs
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

_NO_FILE = frozenset({errno.ENOENT, errno.ELOOP, errno.ENXIO})
"""Absent; a link, as ``O_NOFOLLOW`` tells of it; a socket."""


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


def read_piece(path: Path, offset: int, limit: int) -> Piece:
    """At most ``limit`` bytes from ``offset``; none when the file is absent, no plain file, or not that long.

    A job owns its run directory: what it put in place of a file is neither followed (a link to a file it may not
    read) nor waited for (a pipe).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FILE:
            return Piece(b"", 0, 0)
        raise
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return Piece(b"", 0, 0)
        start = min(offset, found.st_size)
        file.seek(start)
        return Piece(file.read(limit), start, found.st_size)


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
    piece = read_piece(path, max(0, size - limit), limit)
    if lines <= 0:
        return Piece(b"", piece.next_offset, piece.size_bytes)
    body = piece.data[:-1] if piece.data.endswith(b"\n") else piece.data
    cut = len(body)
    for _ in range(lines):
        cut = body.rfind(b"\n", 0, cut)
        if cut < 0:
            return piece
    return Piece(piece.data[cut + 1 :], piece.offset + cut + 1, piece.size_bytes)


def whole_characters(data: bytes) -> int:
    """How many leading bytes of ``data`` end on a character boundary, so that no UTF-8 character is cut in two.

    Bytes that are not UTF-8 at all count as whole.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(data)
    return len(data) - len(decoder.getstate()[0])
