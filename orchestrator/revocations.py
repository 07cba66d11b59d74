"""Which API keys were revoked, kept beside the database: a copy of it that is put back must not bring them back."""

import os
from collections.abc import Iterable
from pathlib import Path


class Revocations:
    """A file with the id of a revoked key a line, only ever added to. Blocking."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> set[str]:
        """Ids of all of them."""
        try:
            return set(self._file.read_text().split())
        except FileNotFoundError:
            return set()

    def add(self, key_ids: Iterable[str]) -> None:
        """Keep them, on disk once this returns; those that are there are passed over.

        Raises:
            OSError: the file cannot be written.
        """
        if not (new := sorted(set(key_ids) - self.read())):
            return
        with os.fdopen(os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
            # A line that a crash cut short stays by itself.
            file.write("".join(f"\n{key_id}" for key_id in new) + "\n")
            file.flush()
            os.fsync(file.fileno())
