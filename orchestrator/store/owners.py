"""Owners of jobs: their share of the machine, their limits, and what they used."""

import sqlite3
import time

from orchestrator.domain import Owner
from orchestrator.errors import QuotaExceeded
from orchestrator.store.database import Database, Session
from orchestrator.usage import accrued, decayed


class Owners:
    """What is kept about owners. One who was never named here has a share of one and no limits."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def all(self) -> dict[str, Owner]:
        """Those who were given a share or limits, or used something, by name."""
        return {row["owner"]: _owner(row) for row in await self._db.all("owners")}

    async def put(self, owner: Owner) -> Owner:
        """Keep the owner's share and limits; what was used stays."""

        def keep(session: Session) -> Owner:
            session.run(
                "put_owner",
                owner=owner.name,
                share=owner.share,
                max_running=owner.max_running,
                max_gpus=owner.max_gpus,
                max_queued=owner.max_queued,
            )
            kept = session.one("owner", owner=owner.name)
            assert kept is not None
            return _owner(kept)

        return await self._db.write(keep)

    async def queued(self) -> dict[str, int]:
        """Owner -> jobs in the queue."""
        return {row["owner"]: row["n"] for row in await self._db.all("queued_by_owner")}


def check_room_in_queue(session: Session, owner: str) -> None:
    """Raise when the owner may queue no further job, within the transaction that would.

    Raises:
        QuotaExceeded: naming the owner and the limit.
    """
    full = session.one("queue_full", owner=owner)
    if full is not None:
        raise QuotaExceeded(
            f"owner: {owner!r} may have at most {full['max_queued']} job(s) in the queue",
            field="owner",
            suggestion="wait until some have started, cancel some, or ask for a higher max_queued (saeforge owners)",
        )


def charge(session: Session, job_id: str, number: int, half_life_s: float) -> None:
    """Count what a released attempt used as its owner's use, within the transaction that releases it."""
    use = session.one("attempt_use", job_id=job_id, number=number)
    if use is None or use["weight"] is None:
        return
    now = time.time()
    before = session.one("owner", owner=use["owner"])
    used = decayed(before["usage"], now - before["usage_at"], half_life_s) if before is not None else 0.0
    used += accrued(use["weight"], now - use["created_at"], half_life_s)
    session.run("charge_owner", owner=use["owner"], usage=used, now=now)


def _owner(row: sqlite3.Row) -> Owner:
    return Owner(
        name=row["owner"],
        share=row["share"],
        max_running=row["max_running"],
        max_gpus=row["max_gpus"],
        max_queued=row["max_queued"],
        usage=row["usage"],
        usage_at=row["usage_at"],
    )
