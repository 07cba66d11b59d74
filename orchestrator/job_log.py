"""An attempt's log as readers see it: the bytes the run wrote, and the gap where the quota dropped some.

Blocking: call it off the event loop.
"""

from dataclasses import dataclass

from orchestrator.quota import Dropped, read_dropped
from orchestrator.tail import read_last_lines, read_piece
from worker_image.contract.rundir import RunDir


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes of a log that are not there any more."""

    offset: int
    next_offset: int
    quota_bytes: int

    @property
    def size_bytes(self) -> int:
        return self.next_offset - self.offset

    @property
    def marker(self) -> str:
        """The line that stands for it wherever a person reads the log."""
        quota = f"{self.quota_bytes / 2**20:g} MB"
        return f"[saeforge: {self.size_bytes} bytes dropped here: the log exceeded its quota of {quota}]\n"


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of a log, or the gap in their place."""

    data: bytes
    offset: int
    """Of the first byte, or of the gap."""
    size_bytes: int
    """The log's length when it was read, with what was dropped of it."""
    gap: Gap | None = None

    @property
    def next_offset(self) -> int:
        return self.gap.next_offset if self.gap else self.offset + len(self.data)

    @property
    def last(self) -> bool:
        """Whether nothing came after it when it was read."""
        return self.next_offset >= self.size_bytes


def read_part(run_dir: RunDir, offset: int, limit: int) -> Part:
    """At most ``limit`` bytes from ``offset``, up to the gap, or the gap where ``offset`` lies in it."""
    piece = read_piece(run_dir.log, offset, limit)
    # In this order: what is dropped from now on was read while it was there.
    dropped = read_dropped(run_dir)
    end = min(dropped.next_offset, piece.size_bytes) if dropped else 0
    if dropped is None or piece.offset >= end or piece.next_offset <= dropped.offset:
        return Part(piece.data, piece.offset, piece.size_bytes)
    if piece.offset < dropped.offset:
        return Part(piece.data[: dropped.offset - piece.offset], piece.offset, piece.size_bytes)
    return Part(b"", piece.offset, piece.size_bytes, _gap(dropped, piece.offset, end))


def read_parts(run_dir: RunDir, offset: int, limit: int) -> list[Part]:
    """Parts one after the other that hold at most ``limit`` bytes together; at least one, which may be empty."""
    parts = [read_part(run_dir, offset, limit)]
    while not parts[-1].last and (room := limit - sum(len(part.data) for part in parts)) > 0:
        following = read_part(run_dir, parts[-1].next_offset, room)
        if following.next_offset <= parts[-1].next_offset:
            break
        parts.append(following)
    return parts


def read_tail(run_dir: RunDir, lines: int, limit: int) -> list[Part]:
    """The last ``lines`` lines, or as many of them as ``limit`` bytes hold; nothing from before the gap."""
    piece = read_last_lines(run_dir.log, lines, limit)
    tail = Part(piece.data, piece.offset, piece.size_bytes)
    dropped = read_dropped(run_dir)
    end = min(dropped.next_offset, piece.size_bytes) if dropped else 0
    if dropped is None or piece.offset >= end:
        return [tail]
    gap = Part(b"", dropped.offset, piece.size_bytes, _gap(dropped, dropped.offset, end))
    return [gap, Part(piece.data[end - piece.offset :], end, piece.size_bytes)]


def _gap(dropped: Dropped, offset: int, next_offset: int) -> Gap:
    return Gap(offset, next_offset, dropped.quota_bytes)
