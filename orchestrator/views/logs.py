"""Pieces of a log."""

from typing import Literal

from orchestrator.views.base import View


class LogGap(View):
    """Bytes of a log that are not there any more."""

    offset: int
    next_offset: int
    """Where the log goes on."""
    bytes: int
    """How many they were."""
    reason: Literal["quota"]
    message: str
    """The line that stands for them."""


class LogChunk(View):
    """A piece of one attempt's log."""

    attempt: int
    offset: int
    """Byte offset of the first byte of ``data``."""
    next_offset: int
    """Where to go on reading."""
    size_bytes: int
    """Bytes in the log so far, with those that were dropped of it."""
    encoding: Literal["utf-8", "base64"] = "utf-8"
    data: str
    """UTF-8 text, in which bytes that are not text show as U+FFFD and dropped ones as a line that says how many; or
    the exact bytes in base64, without those of the gaps."""
    gaps: list[LogGap] = []
    """What the quota dropped between ``offset`` and ``next_offset``, in order."""
