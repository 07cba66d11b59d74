"""SHA-256 of large files, worked out once: remembered by path, size, times and inode until the file changes."""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from worker_image.sae.files import share_folder

_SETTLED_S = 2.0
"""A file changed less long ago may change again within the same tick of its clock, and is not remembered."""


class DigestBook:
    """Digests of files, kept in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, path: Path) -> str:
        """Hex digest of a file's contents.

        Raises:
            OSError: it cannot be read.
        """
        before = os.stat(path)
        page = self._folder / f"{_sha256(f'{path.resolve()} {_identity(before)}')}.json"
        try:
            return str(json.loads(page.read_bytes())["sha256"])
        except (OSError, ValueError, KeyError):
            pass
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
        age_s = time.time() - max(after.st_mtime, after.st_ctime)
        if _identity(after) == _identity(before) and age_s > _SETTLED_S:
            share_folder(self._folder)
            draft = page.with_suffix(f".{os.getpid()}.draft")
            draft.write_text(json.dumps({"path": str(path), "sha256": digest}))
            draft.replace(page)
        return digest

    def of_all(self, paths: Iterable[Path], *, named: bool) -> str:
        """One digest of several files in their order, with their names or (by suffix) whatever they are called."""
        lines = [f"{path.name if named else path.suffix} {self.of(path)}\n" for path in paths]
        return _sha256("".join(lines))


def digest_of(value: object) -> str:
    """Hex digest of anything that JSON can say."""
    return _sha256(json.dumps(value, sort_keys=True))


def _identity(stat: os.stat_result) -> str:
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
