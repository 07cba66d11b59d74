"""Copies of the database: made while it is written to, checked, and put in its place.

Everything here blocks: call it off the event loop.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.store.database import require_known_version
from orchestrator.store.statements import migrations, statements

PREFIX: Final = "saeforge-"
SUFFIX: Final = ".db"
_STAMP: Final = "%Y%m%dT%H%M%S.%fZ"
_PAGES_A_STEP: Final = 2048
_DRAFT_SUFFIX: Final = ".part"
_REPLACED: Final = "replaced-"
REPLACED_KEPT: Final = timedelta(days=30)
"""How long the file is kept that a restore replaced."""
DRAFT_KEPT: Final = timedelta(days=1)
"""How old a draft is that nobody writes any more."""
_SIDE_FILES: Final = ("-wal", "-shm")
"""What SQLite keeps beside a database that is in use."""


class DatabaseCorrupt(OrchestratorError):
    """The database is damaged."""

    code = "database_corrupt"


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy of the database in a file of its own."""

    path: Path
    size_bytes: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Restored:
    """A copy that took the database's place."""

    schema_version: int
    jobs: int
    replaced: Path | None
    """Where the file it replaced is kept; none when there was none."""


def backups(folder: Path) -> list[Backup]:
    """The backups in a folder, newest first. Only those named by ``backup_name`` count."""
    found: list[Backup] = []
    for path in folder.glob(f"{PREFIX}*{SUFFIX}") if folder.is_dir() else ():
        with suppress(ValueError, FileNotFoundError):
            created_at = datetime.strptime(path.name[len(PREFIX) : -len(SUFFIX)], _STAMP).replace(tzinfo=UTC)
            found.append(Backup(path, path.stat().st_size, created_at))
    return sorted(found, key=lambda backup: backup.created_at, reverse=True)


def backup_name(now: datetime) -> str:
    """The file name of a backup made now; names sort by age."""
    return f"{PREFIX}{now.astimezone(UTC).strftime(_STAMP)}{SUFFIX}"


def back_up(database: Path, target: Path) -> Backup:
    """Copy the database into ``target``, which appears only once it is whole, checked and on disk.

    What is written meanwhile waits for nothing; the copy is of the moment at which it began.

    Raises:
        InvalidInput: there is no database, or ``target`` is the database itself or a directory.
        DatabaseCorrupt: the copy does not pass its check, so neither would the original.
        OSError: the file cannot be written.
    """
    if not database.is_file():
        raise InvalidInput(f"there is no database at {database}", field="SAEFORGE_HOME")
    if target.is_dir() or (target.exists() and target.samefile(database)):
        raise InvalidInput(f"{target} cannot be a backup", field="file", suggestion="name a file that is to hold it")
    created_at = datetime.now(UTC)
    with _draft_of(target) as draft:
        _copy(database, draft)
        if problems := check(draft):
            raise DatabaseCorrupt(
                f"the backup of {database} does not pass its check: {problems[0]}",
                suggestion="'saeforge doctor' checks the database itself; 'saeforge restore' puts an earlier one back",
            )
        _put_in_place(draft, target)
    return Backup(target, target.stat().st_size, created_at)


def prune(folder: Path, keep: int) -> list[Path]:
    """Delete all but the newest ``keep`` backups of a folder; say which."""
    old = [backup.path for backup in backups(folder)[keep:]]
    for path in old:
        path.unlink(missing_ok=True)
    return old


def leftovers(database: Path, folder: Path, now: datetime) -> list[Path]:
    """What nobody needs any more: files that a restore replaced long ago, and drafts that a crash cut short."""
    drafts = [
        *folder.glob(f".{PREFIX}*{SUFFIX}{_DRAFT_SUFFIX}*"),
        *database.parent.glob(f".{database.name}{_DRAFT_SUFFIX}*"),
    ]
    old: list[Path] = []
    for path in drafts:
        with suppress(FileNotFoundError):
            if now.timestamp() - path.lstat().st_mtime > DRAFT_KEPT.total_seconds():
                old.append(path)
    for path in folder.glob(f"{_REPLACED}*{SUFFIX}*"):
        # By its name: the file was last written to long before it was replaced.
        with suppress(ValueError):
            replaced_at = datetime.strptime(path.name.removeprefix(_REPLACED).partition(SUFFIX)[0], _STAMP)
            if now - replaced_at.replace(tzinfo=UTC) > REPLACED_KEPT:
                old.append(path)
    return old


def check(database: Path, *, quick: bool = False) -> list[str]:
    """What is wrong with a database file; nothing when it is sound.

    ``quick`` leaves out whether indexes agree with their tables: it reads every page once.
    """
    try:
        with closing(_open(database)) as connection:
            found = connection.execute(f"PRAGMA {'quick' if quick else 'integrity'}_check(10)").fetchall()
            problems = [str(text) for (text,) in found if text != "ok"]
            if not problems and not quick:
                broken = connection.execute("PRAGMA foreign_key_check").fetchmany(10)
                problems = [f"a row of {row[0]} refers to no row of {row[2]}" for row in broken]
    except sqlite3.DatabaseError as error:
        return [str(error)]
    return problems


def require_usable(database: Path, folder: Path) -> None:
    """Raise unless the database, if there is one, is sound and of a version that is known. Reads all of it once.

    Raises:
        DatabaseCorrupt: it is damaged; the newest backup in ``folder`` is named.
        StoreError: it was written by a newer version.
    """
    if not database.is_file():
        return
    if problems := check(database, quick=True):
        raise corrupt(database, problems[0], folder)
    with closing(_open(database)) as connection:
        require_known_version(connection, database)


def corrupt(database: Path, problem: str, folder: Path) -> DatabaseCorrupt:
    """The error to raise for a damaged database: it names the newest backup."""
    newest = next(iter(backups(folder)), None)
    if newest is None:
        advice = "there is no backup: 'saeforge restore --from-runs' rebuilds it from the run directories"
    else:
        advice = f"saeforge restore {newest.path} (made {newest.created_at:%Y-%m-%d %H:%M} UTC)"
    return DatabaseCorrupt(f"{database} is damaged: {problem}", suggestion=advice)


def restore(source: Path, database: Path, folder: Path) -> Restored:
    """Put a copy of ``source`` in the database's place; the file that was there is kept in ``folder``.

    Nobody may have the database open. ``source`` is not touched, and nothing is replaced unless it is sound.

    Raises:
        InvalidInput: it is no database of saeforge, or one of a newer version.
        DatabaseCorrupt: it is damaged.
        OSError: a file cannot be written.
    """
    if not source.is_file():
        raise InvalidInput(f"there is no file {source}", field="file")
    with _draft_of(database) as draft:
        shutil.copyfile(source, draft)
        # A plain copy of a database in use has its last changes beside it.
        if (log := source.with_name(source.name + "-wal")).is_file():
            shutil.copyfile(log, draft.with_name(draft.name + "-wal"))
        version, jobs = _examine(draft, source)
        replaced = set_aside(database, folder)
        _put_in_place(draft, database)
    return Restored(version, jobs, replaced)


def revoked_keys(database: Path) -> list[str]:
    """Ids of the keys that a database tells were revoked; none where it cannot be read."""
    if not database.is_file():
        return []
    with suppress(sqlite3.DatabaseError), closing(_open(database)) as connection:
        return [key_id for (key_id,) in connection.execute("SELECT id FROM api_keys WHERE revoked_at IS NOT NULL")]
    return []


def settle_as_in(replaced: Path, database: Path) -> int:
    """End the jobs that had ended, or were purged, by what the replaced database tells; how many those were.

    Nothing where it cannot be read, or is none of which ``database`` was a copy once: that it does not know a job tells
    nothing then.
    """
    with suppress(sqlite3.DatabaseError), closing(_open(database)) as connection:
        connection.execute("ATTACH DATABASE ? AS replaced", (f"{replaced.absolute().as_uri()}?mode=ro",))
        if connection.execute(statements()["shares_history"]).fetchone() is None:
            return 0
        connection.execute("BEGIN IMMEDIATE")
        try:
            values = {"now": datetime.now(UTC).timestamp()}
            for name in ("find_ended_meanwhile", "tell_ended_meanwhile", "end_attempts_meanwhile", "free_meanwhile"):
                connection.execute(statements()[name], values)
            settled = connection.execute(statements()["end_meanwhile"], values).rowcount
            connection.execute("COMMIT")
        except sqlite3.DatabaseError:
            connection.execute("ROLLBACK")
            raise
        return settled
    return 0


def set_aside(database: Path, folder: Path) -> Path | None:
    """Keep the database under another name in ``folder``, whatever its state; none when there is none.

    It stays where it is too, without what SQLite keeps beside it: that would be taken for the next file's.
    """
    if not database.is_file():
        return None
    with suppress(sqlite3.DatabaseError), closing(_open(database)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = folder / f"{_REPLACED}{datetime.now(UTC).strftime(_STAMP)}{SUFFIX}"
    os.link(database, aside)
    for suffix in _SIDE_FILES:
        with suppress(FileNotFoundError):
            database.with_name(database.name + suffix).rename(aside.with_name(aside.name + suffix))
    _sync(folder)
    return aside


def _examine(draft: Path, source: Path) -> tuple[int, int]:
    """Check a file that is to become the database; its schema version and how many jobs it holds."""
    if problems := check(draft):
        if "not a database" in problems[0]:
            raise InvalidInput(f"{source} is not a database", field="file")
        raise DatabaseCorrupt(f"{source} is damaged: {problems[0]}", suggestion="restore another backup")
    with closing(_open(draft)) as connection:
        # One file, without anything beside it.
        connection.execute("PRAGMA journal_mode=DELETE")
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        is_ours = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'jobs'").fetchone()[0]
        if not version or not is_ours:
            raise InvalidInput(f"{source} is not a database of saeforge", field="file")
        if version > len(migrations()):
            raise InvalidInput(
                f"{source} has schema version {version}, this saeforge knows {len(migrations())}",
                field="file",
                suggestion="install the saeforge that wrote it, or a newer one",
            )
        jobs: int = connection.execute("SELECT count(*) FROM jobs").fetchone()[0]
    return version, jobs


def _copy(database: Path, draft: Path) -> None:
    with closing(_open(database)) as source, closing(sqlite3.connect(draft, isolation_level=None)) as copy:
        # With a view of its own the copy never starts over, however much is written meanwhile.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        source.backup(copy, pages=_PAGES_A_STEP)
        source.execute("ROLLBACK")
        copy.execute("PRAGMA journal_mode=DELETE")


def _open(database: Path) -> sqlite3.Connection:
    """Open a file that is there: connecting would make a missing one."""
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=10)


@contextmanager
def _draft_of(target: Path) -> Iterator[Path]:
    """A file beside ``target`` that only its owner can read; gone afterwards unless it was put in place."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = target.with_name(f".{target.name}{_DRAFT_SUFFIX}")
    beside = [draft.with_name(draft.name + suffix) for suffix in (*_SIDE_FILES, "-journal")]
    for left in (draft, *beside):
        left.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield draft
    finally:
        for left in (draft, *beside):
            left.unlink(missing_ok=True)


def _put_in_place(draft: Path, target: Path) -> None:
    """Make the draft the target, so that a power cut leaves the one or the other and nothing between."""
    _sync(draft)
    draft.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
