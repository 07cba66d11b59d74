"""Room on the disk: whether new attempts may start on it."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says where there is no room, or none for this user."""
RELIEF: Final = 1.1
"""How much more than the least must be free before a halt ends, so that it does not come and go."""
_MIB: Final = 1 << 20
NEXT_TO_NOTHING: Final = 256 * _MIB
"""Bytes: who needed more and was refused may have given up what it had since."""


def free_bytes(path: Path) -> int:
    """Bytes that may still be written where ``path`` is."""
    return shutil.disk_usage(path).free


def is_full(path: Path) -> bool:
    """Whether next to nothing can be written where ``path`` is. Blocking."""
    try:
        return free_bytes(path) < NEXT_TO_NOTHING
    except OSError:
        return False


class Disk:
    """Looks whether there is room to start something. Blocking: look off the event loop."""

    def __init__(self, home: Path, min_free_mb: int, *, free: Callable[[Path], int] = free_bytes) -> None:
        """``min_free_mb`` MiB have to be free under ``home``; 0 never halts but on a disk that refuses a write."""
        self._home, self._min_free, self._free = home, min_free_mb * _MIB, free
        self._halted = False

    def look(self) -> str | None:
        """Why nothing new may start just now; none while there is room."""
        try:
            free = self._free(self._home)
        except OSError as error:
            return f"{self._home} cannot be looked at: {error.strerror}"
        least = int(self._min_free * RELIEF) if self._halted else self._min_free
        self._halted = free < least
        if not self._halted:
            return None
        return f"{free // _MIB} MiB free under {self._home}, {least // _MIB} MiB needed (SAEFORGE_MIN_FREE_MB)"
