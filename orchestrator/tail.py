"""Reading files that others append to, by byte offset. Blocking: call it off the event loop."""

import codecs
import os
from dataclasses import dataclass
from pathlib import Path


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
    """At most ``limit`` bytes from ``offset``; none when the file is absent or not that long."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = min(offset, size)
            file.seek(start)
            return Piece(file.read(limit), start, size)
    except FileNotFoundError:
        return Piece(b"", 0, 0)


def read_lines(path: Path, offset: int, limit: int) -> tuple[list[bytes], int]:
    """The whole lines that begin at ``offset`` within ``limit`` bytes, and the offset after them.

    A line still being written is left for the next time; one longer than ``limit`` is read on until it ends.
    """
    piece = read_piece(path, offset, limit)
    while b"\n" not in piece.data and piece.next_offset < piece.size_bytes:
        limit *= 2
        piece = read_piece(path, offset, limit)
    end = piece.data.rfind(b"\n") + 1
    return piece.data[:end].split(b"\n")[:-1], piece.offset + end


def read_last_lines(path: Path, lines: int, limit: int) -> Piece:
    """The last ``lines`` lines, or as many of them as ``limit`` bytes hold."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return Piece(b"", 0, 0)
    start = max(0, size - limit)
    piece = read_piece(path, start, limit)
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
