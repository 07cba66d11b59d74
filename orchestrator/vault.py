"""Secrets: values that jobs may use, and that are in no table, no log and no description of a container.

At rest they are files in ``<home>/secrets`` that only the orchestrator's user can read. A running job finds those it
names as files in memory, which are taken back when it has ended. Blocking: call it off the event loop.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

from orchestrator.errors import InvalidInput, LaunchFailed, NotFound
from orchestrator.executors.home_id import home_id
from orchestrator.settings import Settings

NAME: Final = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
"""What a secret may be called: what a variable may."""
MAX_BYTES: Final = 65_536
_SHARED: Final = "shared"
_OWNER: Final = ".owner"
_SHORTEST_SCRUBBED: Final = 6
"""Bytes. Anything shorter stands in any text by chance."""
_SCRUBBED: Final = "***"
_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret, without its value."""

    name: str
    owner: str | None
    """Whose jobs may use it; everybody's when empty."""
    updated_at: datetime


class Vault:
    """Keeps secrets and lends them to attempts."""

    def __init__(self, settings: Settings) -> None:
        self._home = settings.home
        self._kept = settings.home / "secrets"
        self._memory = settings.secrets_memory

    # --- at rest

    def put(self, name: str, owner: str | None, value: str) -> None:
        """Keep a secret, in place of the one of this name and owner.

        Raises:
            InvalidInput: its name or size will not do.
        """
        if not re.fullmatch(NAME, name):
            raise InvalidInput(
                f"name: {name!r} is not the name of a secret",
                field="name",
                suggestion="use at most 64 letters, digits and underscores, as in HF_TOKEN",
            )
        content = value.encode()
        if not 0 < len(content) <= MAX_BYTES:
            raise InvalidInput(f"value: a secret has 1 to {MAX_BYTES} bytes", field="value")
        _own_folder(self._kept)
        folder = _own_folder(self._folder(owner).parent) / self._folder(owner).name
        _own_folder(folder)
        if owner is not None:
            _write(folder / _OWNER, owner.encode(), 0o600)
        _write(folder / name, content, 0o600)

    def delete(self, name: str, owner: str | None) -> None:
        """Raises: NotFound."""
        try:
            if not re.fullmatch(NAME, name):
                raise FileNotFoundError
            (self._folder(owner) / name).unlink()
        except FileNotFoundError:
            raise NotFound(f"there is no secret {name!r}", field="name", suggestion="saeforge secrets list") from None

    def all(self) -> list[Secret]:
        """Every secret, by owner and name."""
        folders = [self._kept / _SHARED, *sorted((self._kept / "owners").glob("*"))]
        return sorted(
            (secret for folder in folders for secret in _listed(folder)),
            key=lambda secret: (secret.owner or "", secret.name),
        )

    def check(self, names: Collection[str], owner: str) -> None:
        """Raise unless jobs of this owner can have these secrets.

        Raises:
            InvalidInput: there is no such secret.
        """
        for name in names:
            if self._find(name, owner) is None:
                raise InvalidInput(
                    f"secrets: there is no secret {name!r}",
                    field="secrets",
                    suggestion=f"set it first: saeforge secrets set {name}",
                )

    def _find(self, name: str, owner: str) -> Path | None:
        """The owner's own, else the one that everybody may use."""
        if not re.fullmatch(NAME, name):
            return None
        candidates = (self._folder(owner) / name, self._folder(None) / name)
        return next((path for path in candidates if path.is_file()), None)

    def _folder(self, owner: str | None) -> Path:
        if owner is None:
            return self._kept / _SHARED
        # Owners are any text; a digest is a good file name.
        return self._kept / "owners" / hashlib.sha256(owner.encode()).hexdigest()[:32]

    # --- lent

    def lent_at(self, attempt: str) -> Path:
        """Where an attempt of this name finds its secrets."""
        return self._lent() / attempt

    def _lent(self) -> Path:
        # By the home's id: several homes may share the directory, and each sweeps its own.
        return self._memory / _id_of(self._home)

    def lend(self, attempt: str, names: Collection[str], owner: str) -> None:
        """Lay out an attempt's secrets in memory. Repeating it changes nothing.

        Raises:
            LaunchFailed: a secret is gone, or the directory is not in memory, or not ours alone.
        """
        target = self.lent_at(attempt)
        if target.is_dir():
            return
        found = {name: self._find(name, owner) for name in names}
        if missing := [name for name, path in found.items() if path is None]:
            advice = f"saeforge secrets set {missing[0]}, then restart the job"
            raise LaunchFailed(f"the secret {missing[0]} was deleted since the job was submitted", suggestion=advice)
        try:
            _own_folder(self._memory)
            _own_folder(target.parent)
            if not _in_memory(target.parent):
                raise LaunchFailed(
                    f"{target.parent} is on a disk, where no secret may be written",
                    suggestion="set SAEFORGE_SECRETS_TMPFS to a directory on a tmpfs",
                )
            draft = target.with_name(f".{target.name}")
            _remove(draft)
            draft.mkdir(0o700)
            for name, path in found.items():
                assert path is not None
                _write(draft / name, path.read_bytes(), 0o400)
            draft.chmod(0o500)
            draft.replace(target)
        except OSError as error:
            raise LaunchFailed(
                f"secrets cannot be laid out in {target.parent}: {error.strerror}",
                suggestion="set SAEFORGE_SECRETS_TMPFS to a directory on a tmpfs that the orchestrator may write to",
            ) from error

    def values(self, attempt: str) -> tuple[str, ...]:
        """The values that were lent to this attempt."""
        folder = self.lent_at(attempt)
        if not folder.is_dir():
            return ()
        return tuple(path.read_text(errors="replace") for path in sorted(folder.iterdir()))

    def take_back(self, attempt: str) -> None:
        """Remove what was lent to this attempt; nothing if nothing was."""
        _remove(self.lent_at(attempt))

    def sweep(self, live: Collection[str]) -> None:
        """Take back what was lent to any attempt but the ``live`` ones, whatever kept that from being done before."""
        folder = self._lent()
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in live:
                _remove(path)


_id_of = cache(home_id)


def scrubbed(text: str, values: Collection[str]) -> str:
    """``text`` without these values, plain or as JSON writes them."""
    for value in values:
        for form in _forms(value):
            text = text.replace(form, _SCRUBBED)
    return text


def _forms(value: str) -> set[str]:
    plain = {value, value.strip()}
    written = {json.dumps(form, ensure_ascii=ascii)[1:-1] for form in plain for ascii in (True, False)}
    return {form for form in plain | written if len(form) >= _SHORTEST_SCRUBBED}


def _listed(folder: Path) -> Iterator[Secret]:
    if not folder.is_dir():
        return
    owner = None if folder.name == _SHARED else (folder / _OWNER).read_text()
    for path in folder.iterdir():
        if re.fullmatch(NAME, path.name):
            yield Secret(path.name, owner, datetime.fromtimestamp(path.stat().st_mtime, UTC))


def _own_folder(folder: Path) -> Path:
    """The folder, made if need be, that nobody else can look into.

    Raises:
        OSError: somebody else made it, as anyone may in a place that is open to all.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise PermissionError(1, f"{folder} belongs to somebody else")
    folder.chmod(0o700)
    return folder


def _write(path: Path, content: bytes, mode: int) -> None:
    draft = path.with_name(f".{path.name}.tmp")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _remove(folder: Path) -> None:
    if not os.path.lexists(folder):
        return
    # Not writable, so that nothing is added to it; whoever removes it may undo that.
    folder.chmod(0o700)
    shutil.rmtree(folder)


def _in_memory(folder: Path) -> bool:
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if fields.split()[2] == number:
            return kind.split()[0] in _MEMORY
    return False
