"""The SQLite file: one writer, one reader, transactions and migrations.

Journal mode is WAL with ``synchronous=FULL``, so what was committed survives a power cut.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiosqlite

from orchestrator.errors import OrchestratorError
from orchestrator.store.statements import migrations, statements


class StoreError(OrchestratorError):
    """The database cannot be used."""

    code = "store_error"


class Database:
    """Runs the named statements. Inside a transaction everything goes to the writer, so it sees its own changes."""

    def __init__(self, writer: aiosqlite.Connection, reader: aiosqlite.Connection) -> None:
        self._writer, self._reader = writer, reader
        self._writing = asyncio.Lock()
        self._owner: asyncio.Task[object] | None = None
        self._sql = statements()

    @classmethod
    async def open(cls, path: Path) -> "Database":
        """Open or create the file and bring its schema up to date.

        Raises:
            StoreError: the file is not a database, or was written by a newer version.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = await _connect(path)
        try:
            await _migrate(writer, path)
            reader = await _connect(path)
        except BaseException:
            await writer.close()
            raise
        return cls(writer, reader)

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """All of it or nothing, durable once the block is left."""
        async with self._writing:
            self._owner = asyncio.current_task()
            try:
                await self._writer.execute("BEGIN IMMEDIATE")
                yield
                await self._writer.execute("COMMIT")
            except BaseException:
                # Whatever failed or was cancelled, BEGIN and COMMIT included: the next one finds no open transaction.
                # There is none to end where SQLite did so itself, as on a full disk.
                with suppress(sqlite3.OperationalError):
                    await self._writer.execute("ROLLBACK")
                raise
            finally:
                self._owner = None

    async def run(self, name: str, /, **values: object) -> int:
        """Change something, inside a transaction; return how many rows changed."""
        assert self._owner is asyncio.current_task(), f"{name} outside a transaction"
        async with self._writer.execute(self._sql[name], values) as cursor:
            return cursor.rowcount

    async def one(self, name: str, /, **values: object) -> sqlite3.Row | None:
        """The first row, if there is one."""
        async with self._connection.execute(self._sql[name], values) as cursor:
            return await cursor.fetchone()

    async def all(self, name: str, /, *, where: str | None = None, **values: object) -> list[sqlite3.Row]:
        """Every row; ``where`` is a clause made of fixed texts, for the statements that have a place for one."""
        sql = self._sql[name] if where is None else self._sql[name].format(where=where)
        return list(await self._connection.execute_fetchall(sql, values))

    @property
    def _connection(self) -> aiosqlite.Connection:
        return self._writer if self._owner is asyncio.current_task() else self._reader


async def _connect(path: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
            await connection.execute(f"PRAGMA {pragma}")
    except sqlite3.DatabaseError as error:
        await connection.close()
        raise StoreError(
            f"{path} cannot be opened: {error}", suggestion="move the file away, or restore it from a backup"
        ) from error
    return connection


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
    """Run the migrations the file has not seen, each in a transaction with its version."""
    async with connection.execute("PRAGMA user_version") as cursor:
        row = await cursor.fetchone()
    version = row[0] if row else 0
    scripts = migrations()
    if version > len(scripts):
        raise StoreError(
            f"{path} has schema version {version}, this saeforge knows {len(scripts)}",
            suggestion="install the saeforge that wrote it, or a newer one",
        )
    for number, script in enumerate(scripts[version:], start=version + 1):
        await connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
