"""Writing files so that a crash leaves the old state or the new one, never a torn one; and telling them apart."""

import ctypes
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def exchange(one: Path, other: Path) -> None:
    """Let two directories swap names in one step, so that each name leads to a whole directory at every moment.

    Raises:
        OSError: one does not exist, or the file system or kernel cannot do it (EINVAL, ENOSYS).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        renameat2 = libc.renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, "this C library cannot swap names") from None
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one), None, str(other))


def sync_directory(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the contents of ``path`` survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def share_folder(folder: Path) -> None:
    """Make a directory that jobs of several users write to: as processes, and in containers under a user of their own.

    What somebody else made is left as it is: whoever makes one opens it to all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(PermissionError):
        folder.chmod(0o777)


def settle(draft: Path, path: Path) -> None:
    """Give a file that is written its name, in place of what had it."""
    draft.chmod(0o644)  # safetensors makes files that only their owner may read, and jobs run under several users
    sync_file(draft)
    draft.rename(path)
    sync_directory(path.parent)


def draft_of(path: Path) -> Path:
    """Where a file is written before it is given its name: beside it, hidden."""
    return path.with_name(f".{path.name}.draft")


def put(path: Path, content: bytes) -> None:
    """Give ``path`` this content, whole or not at all."""
    draft = draft_of(path)
    draft.write_bytes(content)
    settle(draft, path)


def write_json(content: Mapping[str, object], path: Path) -> None:
    """A JSON file that is whole or not there."""
    put(path, (json.dumps(content, indent=2) + "\n").encode())


def sha256_of(path: Path) -> str:
    """Hex digest of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
