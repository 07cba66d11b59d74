"""The Python exception that ended a program, found in the end of its log. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

LINES_AFTER: Final = 40
"""An exception followed by more lines than this was not the program's last word: it was only logged on the way."""
LONGEST: Final = 600
"""Characters of an exception's message that are told."""

_PREFIX: Final = re.compile(r"^(?:\[rank\d+\]:\s?|\s*\|\s?)")
"""What torch.distributed and exception groups put before every line."""
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_FRAME: Final = re.compile(r'^\s+File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?$')
_EXCEPTION: Final = re.compile(r"^(?P<type>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")
_HEADER: Final = "Traceback (most recent call last):"
_LIBRARIES: Final = ("site-packages", "dist-packages", "<frozen")
_STANDARD: Final = re.compile(r"/lib(?:64)?/python3(?:\.\d+)?/")


@dataclass(frozen=True, slots=True)
class Frame:
    file: str
    line: int
    function: str
    """Empty for a syntax error, which happens in no function."""

    @property
    def in_library(self) -> bool:
        return any(sign in self.file for sign in _LIBRARIES) or _STANDARD.search(self.file) is not None

    def __str__(self) -> str:
        function = f", in {self.function}" if self.function and self.function != "<module>" else ""
        return f"{PurePosixPath(self.file).name} line {self.line}{function}"


@dataclass(frozen=True, slots=True)
class PythonError:
    """An exception as Python printed it."""

    type: str
    """Without the module it is defined in."""
    message: str
    frame: Frame | None
    """The innermost one of the user's own code; of a library where there is none."""
    afterwards: str = ""
    """What the log says after it."""

    def __str__(self) -> str:
        said = f"{self.type}: {self.message}" if self.message else self.type
        return f"{said} ({self.frame})" if self.frame else said


def last_error(log: str) -> PythonError | None:
    """The exception that the end of a log tells of; none when it ends otherwise."""
    lines = [_PREFIX.sub("", _ESCAPES.sub("", line)).rstrip() for line in log.splitlines()]
    last_frame = next((at for at in range(len(lines) - 1, -1, -1) if _FRAME.match(lines[at])), None)
    if last_frame is None:
        return None
    found = _exception(lines, last_frame + 1)
    if found is None:
        return None
    at, kind, message = found
    afterwards = [line for line in lines[at + 1 :] if line]
    if len(afterwards) > LINES_AFTER:
        return None
    frame = _own_frame(lines, last_frame)
    return PythonError(kind.rpartition(".")[2], message[:LONGEST], frame, "\n".join(afterwards))


def _exception(lines: Sequence[str], start: int) -> tuple[int, str, str] | None:
    """Where the line with the exception stands after the last frame, its type, and its message."""
    for at in range(start, len(lines)):
        if not lines[at] or lines[at].startswith(" "):
            continue  # the source line, and the marks below it
        match = _EXCEPTION.match(lines[at])
        if match is None or not _names_exception(match["type"]):
            return None
        return at, match["type"], (match["message"] or "").strip()
    return None


def _names_exception(name: str) -> bool:
    """By the custom of the language: a class, and no word in capitals such as INFO."""
    short = name.rpartition(".")[2]
    return short[:1].isupper() and not (short.isupper() and "." not in name)


def _own_frame(lines: Sequence[str], last: int) -> Frame | None:
    """The innermost frame of the user's own code among those of the traceback that ends with frame ``last``."""
    frames: list[Frame] = []
    for at in range(last, -1, -1):
        if lines[at] == _HEADER:
            break
        if match := _FRAME.match(lines[at]):
            frames.append(Frame(match["file"], int(match["line"]), match["function"] or ""))
    return next((frame for frame in frames if not frame.in_library), frames[0] if frames else None)
