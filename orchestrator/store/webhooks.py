"""Webhooks, how far each was told what happens, and what became of every try."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

from orchestrator.errors import NotFound
from orchestrator.event_names import Kind, kinds
from orchestrator.store.database import Database, Session
from orchestrator.store.rows import moment

EPOCH: Final = datetime.fromtimestamp(0, UTC)
TRIES_KEPT: Final = 500
"""Newest tries kept of each webhook."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Who is told of what."""

    url: str
    events: tuple[str, ...]
    """Names of events, public or as stored."""
    description: str = ""
    statuses: tuple[str, ...] = ()
    """Of changes of status only those to one of these; all when empty."""
    owner: str | None = None
    """Only of this owner's jobs."""
    tag: str | None = None
    """Only of jobs with this tag."""
    id: UUID = field(default_factory=uuid4)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    disabled: str | None = None
    """Why nothing is sent any more, until somebody enables it again."""
    cursor: int = 0
    """The last event dealt with."""
    tries: int = 0
    """Tries of the event after it, so far, that failed."""
    next_try_at: datetime = EPOCH


@dataclass(frozen=True, slots=True)
class Told:
    """An event to tell, with what its receiver wants to know of the job."""

    id: int
    type: str
    ts: datetime
    job_id: UUID
    attempt: int | None
    seq: int | None
    data: dict[str, Any]
    job_name: str
    job_type: str
    job_owner: str
    job_tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt to deliver."""

    event_id: int | None
    """None of a ping."""
    type: str
    number: int
    """From 1 for each event."""
    at: datetime
    duration_s: float
    status_code: int | None
    """None when nobody answered."""
    error: str | None
    """Why it does not count as delivered; None when it does."""


class Webhooks:
    """The tables of webhooks."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def add(self, hook: Webhook) -> Webhook:
        """Keep a new one; it is told of what happens from now on."""

        def keep(session: Session) -> None:
            session.run(
                "insert_webhook",
                id=str(hook.id),
                url=hook.url,
                description=hook.description,
                events=json.dumps(hook.events),
                statuses=json.dumps(hook.statuses),
                owner=hook.owner,
                tag=hook.tag,
                created_at=hook.created_at.timestamp(),
            )

        await self._db.write(keep)
        return await self.one(hook.id)

    async def all(self) -> list[Webhook]:
        """Oldest first."""
        return [_webhook(row) for row in await self._db.all("webhooks")]

    async def one(self, hook_id: UUID) -> Webhook:
        """Raises: NotFound."""
        row = await self._db.one("webhook", id=str(hook_id))
        if row is None:
            raise NotFound(
                f"there is no webhook {hook_id}", field="id", suggestion="GET /api/webhooks lists those there are"
            )
        return _webhook(row)

    async def delete(self, hook_id: UUID) -> None:
        """Raises: NotFound."""
        if not await self._db.write(lambda session: session.run("delete_webhook", id=str(hook_id))):
            await self.one(hook_id)

    async def disable(self, hook_id: UUID, reason: str) -> None:
        await self._db.write(lambda session: session.run("disable_webhook", id=str(hook_id), reason=reason))

    async def enable(self, hook_id: UUID, *, skip: bool) -> Webhook:
        """Send again: what it missed as well, unless that is to be skipped. Raises: NotFound."""

        def go_on(session: Session) -> None:
            session.run("enable_webhook", id=str(hook_id), skip=skip)
            if skip:
                session.run("skip_webhook_leftovers", id=str(hook_id))

        await self._db.write(go_on)
        return await self.one(hook_id)

    async def waiting(self, hook: Webhook, kinds: Sequence[Kind], *, after: int, limit: int) -> tuple[list[Told], int]:
        """Events it is to be told of with ids above ``after``, in order, and up to where there are no others."""
        wanted = _wanted(kinds)

        def look(session: Session) -> tuple[list[sqlite3.Row], int]:
            newest = session.one("newest_event_id")
            assert newest is not None
            left = session.all("webhook_leftovers", webhook_id=str(hook.id), after=after, limit=limit)
            found = session.all(
                "events_for_webhook",
                after=after,
                kinds=wanted,
                statuses=json.dumps(hook.statuses),
                owner=hook.owner,
                tag=hook.tag,
                limit=limit,
            )
            found = sorted([*left, *found], key=lambda row: row["id"])[:limit]
            return found, found[-1]["id"] if len(found) == limit else max(newest["id"], after)

        found, upto = await self._db.read(look)
        return [_told(row) for row in found], upto

    async def record(self, hook_id: UUID, tried: Try, *, next_try_at: datetime | None, disabled: str | None) -> None:
        """Keep what became of a try. One that delivered moves the webhook on; one that failed sets when the next is."""

        def keep(session: Session) -> None:
            session.run(
                "insert_webhook_try",
                webhook_id=str(hook_id),
                event_id=tried.event_id,
                type=tried.type,
                number=tried.number,
                at=tried.at.timestamp(),
                duration_s=tried.duration_s,
                status_code=tried.status_code,
                error=tried.error,
            )
            session.run("trim_webhook_tries", id=str(hook_id), keep=TRIES_KEPT)
            if tried.event_id is None:
                return
            if tried.error is None:
                session.run("webhook_delivered", id=str(hook_id), event_id=tried.event_id)
                session.run("trim_webhook_leftovers", id=str(hook_id))
            else:
                at = next_try_at.timestamp() if next_try_at else 0.0
                session.run("webhook_failed", id=str(hook_id), tries=tried.number, next_try_at=at, disabled=disabled)

        await self._db.write(keep)

    async def tries(self, hook_id: UUID, *, limit: int) -> list[Try]:
        """Newest first."""
        return [
            Try(
                event_id=row["event_id"],
                type=row["type"],
                number=row["number"],
                at=moment(row["at"]),
                duration_s=row["duration_s"],
                status_code=row["status_code"],
                error=row["error"],
            )
            for row in await self._db.all("webhook_tries", id=str(hook_id), limit=limit)
        ]


def keep_untold(session: Session, job_id: UUID) -> None:
    """Keep what webhooks are still to be told of a job that is about to be forgotten."""
    for row in session.all("webhooks"):
        hook = _webhook(row)
        session.run(
            "keep_webhook_leftovers",
            webhook_id=row["id"],
            job_id=str(job_id),
            after=hook.cursor,
            kinds=_wanted(kinds(hook.events)),
            statuses=row["statuses"],
            owner=hook.owner,
            tag=hook.tag,
        )


def _wanted(kinds: Sequence[Kind]) -> str:
    return json.dumps([{"type": kind.type, "to": kind.to} for kind in kinds])


def _webhook(row: sqlite3.Row) -> Webhook:
    return Webhook(
        id=UUID(row["id"]),
        url=row["url"],
        description=row["description"],
        events=tuple(json.loads(row["events"])),
        statuses=tuple(json.loads(row["statuses"])),
        owner=row["owner"],
        tag=row["tag"],
        created_at=moment(row["created_at"]),
        disabled=row["disabled"],
        cursor=row["cursor"],
        tries=row["tries"],
        next_try_at=moment(row["next_try_at"]),
    )


def _told(row: sqlite3.Row) -> Told:
    return Told(
        id=row["id"],
        type=row["type"],
        ts=moment(row["ts"]),
        job_id=UUID(row["job_id"]),
        attempt=row["attempt"],
        seq=row["seq"],
        data=json.loads(row["data"]),
        job_name=row["job_name"],
        job_type=row["job_type"],
        job_owner=row["job_owner"],
        job_tags=tuple(json.loads(row["job_tags"])),
    )
