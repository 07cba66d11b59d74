"""What is kept about sweeps: what each one varies, and how many of its jobs may run at once."""

import json
import sqlite3
from collections.abc import Sequence
from uuid import UUID

from orchestrator.access import MACHINE, Principal
from orchestrator.domain import Job, JobStatus, Sweep
from orchestrator.errors import NotFound
from orchestrator.store import rows
from orchestrator.store.database import Database, Session
from orchestrator.store.jobs import NewJob
from orchestrator.store.submissions import Asked


class Sweeps:
    """The part of the store about sweeps."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def submit(self, sweep: Sweep, jobs: Sequence[Job], asked: Asked | None = None) -> Sweep:
        """Keep a sweep with all of its jobs, or nothing of it. One that the request made before is returned instead.

        Raises:
            QuotaExceeded: its owner may not queue that many.
            IdempotencyConflict: the key came with a different request before.
        """
        new = [NewJob(job) for job in jobs]

        def keep(session: Session) -> Sweep:
            if asked is not None and (known := _made(session, asked)) is not None:
                return known
            session.run(
                "insert_sweep",
                id=str(sweep.id),
                name=sweep.name,
                type=sweep.type,
                owner=sweep.owner,
                varied=json.dumps(sweep.varied),
                max_running=sweep.max_running,
                created_at=sweep.created_at.timestamp(),
            )
            for job in new:
                job.write(session)
            if asked is not None:
                asked.keep(session, sweep.id)
            return sweep

        return await self._db.write(keep)

    async def submitted(self, asked: Asked) -> Sweep | None:
        """The sweep that this request made before. Raises: IdempotencyConflict."""
        return await self._db.read(lambda session: _made(session, asked))

    async def get(self, sweep_id: UUID) -> Sweep:
        """Raises: NotFound."""
        row = await self._db.one("sweep", id=str(sweep_id))
        if row is None:
            raise unknown(sweep_id)
        return _sweep(row)

    async def list(self, *, limit: int, offset: int = 0, who: Principal = MACHINE) -> list[Sweep]:
        """Those within somebody's reach, newest first."""
        within: dict[str, object] = {"owner": who.owner, "types": json.dumps(who.types)}
        return [_sweep(row) for row in await self._db.all("sweeps", limit=limit, offset=offset, **within)]

    async def set_max_running(self, sweep_id: UUID, most: int | None) -> None:
        """Let at most so many of its jobs run at once; as many as there is room for when None. Raises: NotFound."""
        async with self._db.transaction():
            if not await self._db.run("set_max_running", id=str(sweep_id), max_running=most):
                raise unknown(sweep_id)

    async def counts(self, sweep_id: UUID) -> dict[JobStatus, int]:
        """How many of its jobs are in each status; those of none are left out."""
        return {JobStatus(row["status"]): row["n"] for row in await self._db.all("count_sweep", id=str(sweep_id))}

    async def limits(self) -> dict[UUID, int]:
        """Sweep -> most of its jobs that may run at once, of those that limit it and have jobs in the queue."""
        return {UUID(row["id"]): row["max_running"] for row in await self._db.all("sweep_limits")}


def unknown(sweep_id: UUID) -> NotFound:
    """The error for a sweep that does not exist, or not for whoever asks."""
    advice = "GET /api/sweeps lists the sweeps there are"
    return NotFound(f"there is no sweep {sweep_id}", field="sweep", suggestion=advice)


def _made(session: Session, asked: Asked) -> Sweep | None:
    """Raises: IdempotencyConflict."""
    made = asked.made_before(session)
    row = None if made is None else session.one("sweep", id=str(made))
    return None if row is None else _sweep(row)


def _sweep(row: sqlite3.Row) -> Sweep:
    return Sweep(
        id=UUID(row["id"]),
        name=row["name"],
        type=row["type"],
        owner=row["owner"],
        varied=tuple(json.loads(row["varied"])),
        max_running=row["max_running"],
        created_at=rows.moment(row["created_at"]),
    )
