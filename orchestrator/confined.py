"""Files in directories that somebody else may rearrange at any time, as a job may its run directory.

Looking where a path leads and opening it afterwards leaves a moment in between. Here what is opened was never a link.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath


def open_beneath(folder: Path, relative: str) -> int:
    """A descriptor for reading the plain file ``relative`` below ``folder``, whose own path is trusted.

    Raises:
        OSError: there is none, or a link stands somewhere on the way to it.
    """
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or ".." in parts:
        raise FileNotFoundError(relative)
    *folders, name = parts
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for part in folders:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        # Not waiting: a pipe in place of the file would never open.
        return _plain(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor))
    finally:
        os.close(descriptor)


def open_for_append(path: Path) -> int:
    """A descriptor for appending to the plain file at ``path``, which has to be there and to be no link.

    Raises:
        OSError: it is not so.
    """
    return _plain(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))


def leads_astray(path: Path, roots: Iterable[Path]) -> bool:
    """Whether ``path``, which was free of links once, now leads elsewhere or out of every root."""
    real = path.resolve()
    for root in roots:
        real_root = root.resolve()
        for base in (root, real_root):
            if path.is_relative_to(base) and real == real_root / path.relative_to(base):
                return False
    return True


def _plain(descriptor: int) -> int:
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise FileNotFoundError("not a plain file")
