"""The SQLite file: one writer, a few readers, transactions and migrations.

Journal mode is WAL with ``synchronous=FULL``, so what was committed survives a power cut.

What is written at the same time is committed together: whoever asks while a commit is under way shares the next one,
each in a savepoint of its own. A flush of the disk then serves many, and a unit of work crosses to the writer's thread
once and not once a statement.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import aiosqlite

from orchestrator import faults
from orchestrator.errors import DiskFull, OrchestratorError
from orchestrator.store.statements import migrations, statements

T = TypeVar("T")

READERS: Final = 3
"""Connections that read: a long list keeps one busy, and short questions go to the others."""
MOST_TOGETHER: Final = 64
"""Units of work in one commit; more would make the first of them wait for long."""
CACHED_STATEMENTS: Final = 512
"""Prepared statements a connection keeps; more than there are."""


class StoreError(OrchestratorError):
    """The database cannot be used."""

    code = "store_error"


_NO_ROOM: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
"""What SQLite says of a full disk: about the file or its log, and about the index of that."""


def _told(error: BaseException) -> BaseException:
    """The error to raise for one of SQLite: a full disk is no defect, and its user can do something about it."""
    if not isinstance(error, sqlite3.OperationalError) or error.sqlite_errorcode not in _NO_ROOM:
        return error
    full = DiskFull(suggestion="free space under SAEFORGE_HOME, e.g. with 'saeforge cleanup', then try again")
    full.__cause__ = error
    return full


class Session:
    """The named statements within one transaction. Blocking: it lives on its connection's own thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._sql = statements()

    def run(self, name: str, /, **values: object) -> int:
        """Change something; return how many rows changed."""
        return self._connection.execute(self._sql[name], values).rowcount

    def run_each(self, name: str, rows: Sequence[dict[str, object]]) -> None:
        """Change something once for every row of values."""
        self._connection.executemany(self._sql[name], rows)

    def one(self, name: str, /, **values: object) -> sqlite3.Row | None:
        """The first row, if there is one."""
        row: sqlite3.Row | None = self._connection.execute(self._sql[name], values).fetchone()
        return row

    def all(self, name: str, /, **values: object) -> list[sqlite3.Row]:
        """Every row."""
        return self._connection.execute(self._sql[name], values).fetchall()

    def matching(self, name: str, where: str, order: str, /, **values: object) -> list[sqlite3.Row]:
        """Every row of a statement with places for a clause and an order, which are made of fixed texts."""
        return self._connection.execute(self._sql[name].format(where=where, order=order), values).fetchall()


@dataclass(frozen=True, slots=True, eq=False)
class _Unit(Generic[T]):
    """Work that waits for the writer, and the future of who waits for it."""

    work: Callable[[Session], T]
    done: asyncio.Future[T]


class Database:
    """Runs the named statements. Inside a transaction everything goes to the writer, so it sees its own changes."""

    def __init__(self, writer: "_Connection", readers: Sequence["_Connection"]) -> None:
        self._writer, self._readers = writer, readers
        self._idle: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()
        for reader in readers:
            self._idle.put_nowait(reader)
        self._writing = asyncio.Lock()
        self._owner: asyncio.Task[object] | None = None
        self._units: deque[_Unit[Any]] = deque()
        self._committing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: Path) -> "Database":
        """Open or create the file and bring its schema up to date.

        Raises:
            StoreError: the file is not a database, or was written by a newer version.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = [await _connect(path)]
        try:
            await opened[0].call(partial(_migrate, path=path))
            while len(opened) <= READERS:
                opened.append(await _connect(path))
        except BaseException:
            for connection in opened:
                await connection.close()
            raise
        return cls(opened[0], opened[1:])

    async def close(self) -> None:
        """Finish what is being written, then close the file."""
        if self._committing is not None:
            await self._committing
        for connection in (*self._readers, self._writer):
            await connection.close()

    async def write(self, work: Callable[[Session], T]) -> T:
        """Do all of ``work`` or, if it raises, nothing of it; durable once this returns.

        It runs on the writer's thread and must not wait for anything but the session. If the caller is cancelled
        meanwhile, it is still done either wholly or not at all.

        Raises:
            DiskFull: there is no room for it.
            sqlite3.Error: the commit failed, and with it all that was to be committed together.
        """
        assert self._owner is not asyncio.current_task(), "a transaction inside a transaction"
        unit = _Unit(work, asyncio.get_running_loop().create_future())
        self._units.append(unit)
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_units(), name="commits")
        done: T = await unit.done
        return done

    async def read(self, work: Callable[[Session], T]) -> T:
        """Do the questions of ``work`` on one view of the file, in one go; it changes nothing."""
        return await self._ask(partial(_view, work=work))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """All of it or nothing, durable once the block is left.

        Every statement of the block crosses to the writer's thread and back: for what is done often there is ``write``.
        """
        async with self._writing:
            self._owner = asyncio.current_task()
            try:
                await self._writer.execute("BEGIN IMMEDIATE")
                yield
                await self._writer.execute("COMMIT")
            except BaseException as error:
                # Whatever failed or was cancelled, BEGIN and COMMIT included: the next one finds no open transaction.
                # There is none to end where SQLite did so itself, as on a full disk.
                with suppress(sqlite3.OperationalError):
                    await self._writer.execute("ROLLBACK")
                if (told := _told(error)) is not error:
                    raise told from error
                raise
            finally:
                self._owner = None

    async def run(self, name: str, /, **values: object) -> int:
        """Change something, inside a transaction; return how many rows changed."""
        assert self._owner is asyncio.current_task(), f"{name} outside a transaction"
        return await self._writer.call(lambda connection: Session(connection).run(name, **values))

    async def one(self, name: str, /, **values: object) -> sqlite3.Row | None:
        """The first row, if there is one."""
        return await self._question(lambda session: session.one(name, **values))

    async def all(self, name: str, /, **values: object) -> list[sqlite3.Row]:
        """Every row."""
        return await self._question(lambda session: session.all(name, **values))

    async def _question(self, question: Callable[[Session], T]) -> T:
        if self._owner is asyncio.current_task():
            return await self._writer.call(lambda connection: question(Session(connection)))
        return await self._ask(lambda connection: question(Session(connection)))

    async def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Have the reader that became idle last answer."""
        reader = await self._idle.get()
        try:
            return await reader.call(question)
        finally:
            self._idle.put_nowait(reader)

    async def _commit_units(self) -> None:
        """Commit what waits, as much of it together as came while the commit before was under way."""
        try:
            while self._units:
                async with self._writing:
                    together = [self._units.popleft() for _ in range(min(len(self._units), MOST_TOGETHER))]
                    # Whoever was cancelled while it waited wants nothing done any more.
                    together = [unit for unit in together if not unit.done.done()]
                    await self._commit(together)
        finally:
            self._committing = None
            while self._units:
                self._units.popleft().done.cancel()

    async def _commit(self, together: Sequence[_Unit[Any]]) -> None:
        try:
            outcomes = await self._writer.call(partial(_do_together, works=[unit.work for unit in together]))
        except BaseException as error:
            for unit in together:
                _settle(unit, _told(error))
            if not isinstance(error, Exception):
                raise
            return
        for unit, (result, failure) in zip(together, outcomes, strict=True):
            _settle(unit, failure, result)


def _settle(unit: _Unit[T], error: BaseException | None, result: T | None = None) -> None:
    if unit.done.done():
        return
    if error is None:
        unit.done.set_result(result)  # type: ignore[arg-type]
    elif isinstance(error, asyncio.CancelledError):
        unit.done.cancel()
    else:
        unit.done.set_exception(error)


_Outcome = tuple[Any, Exception | None]
"""What a unit of work returned, or why nothing of it was done."""


def _do_together(connection: sqlite3.Connection, *, works: Sequence[Callable[[Session], Any]]) -> list[_Outcome]:
    session = Session(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        outcomes = [_do_one(connection, session, work) for work in works]
        connection.execute("COMMIT")
    except BaseException:
        # There is nothing to end where SQLite did so itself, as on a full disk.
        with suppress(sqlite3.OperationalError):
            connection.execute("ROLLBACK")
        raise
    return outcomes


def _do_one(connection: sqlite3.Connection, session: Session, work: Callable[[Session], Any]) -> _Outcome:
    connection.execute("SAVEPOINT unit")
    try:
        outcome: _Outcome = work(session), None
    except Exception as error:
        if not connection.in_transaction:
            # SQLite ended the whole transaction, as on a full disk: what came before this one is undone as well.
            raise
        connection.execute("ROLLBACK TO unit")
        outcome = None, error
    connection.execute("RELEASE unit")
    return outcome


def _view(connection: sqlite3.Connection, *, work: Callable[[Session], T]) -> T:
    connection.execute("BEGIN")
    try:
        return work(Session(connection))
    finally:
        connection.execute("COMMIT")


class _Connection(aiosqlite.Connection):
    """One that also runs a whole function on its thread."""

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        result: T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]
        return result


async def _connect(path: Path) -> _Connection:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, cached_statements=CACHED_STATEMENTS)

    connection = _Connection(connect, iter_chunk_size=64)
    await connection
    try:
        await connection.call(_configure)
    except sqlite3.DatabaseError as error:
        await connection.close()
        raise StoreError(
            f"{path} cannot be opened: {error}", suggestion="move the file away, or restore it from a backup"
        ) from error
    return connection


def _configure(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def require_known_version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the file's schema.

    Raises:
        StoreError: it was written by a newer version.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations()):
        raise StoreError(
            f"{path} has schema version {version}, this saeforge knows {len(migrations())}",
            suggestion="install the saeforge that wrote it, or a newer one",
        )
    return version


def _migrate(connection: sqlite3.Connection, *, path: Path) -> None:
    """Run the migrations the file has not seen, each in a transaction with its version."""
    version = require_known_version(connection, path)
    for number, script in enumerate(migrations()[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
        faults.reach("migrated")
