"""Stored events as their viewers read them: those who want the same at once get the same page."""

import asyncio
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

from orchestrator.access import Principal
from orchestrator.event_names import Kind
from orchestrator.store import Store
from orchestrator.views import EventView

PAGE = 500


@dataclass(frozen=True, slots=True)
class Page:
    """Events after some id."""

    messages: tuple[str, ...]
    """Each event as JSON."""
    next_after: int
    """The id up to which all events were looked at."""
    full: bool
    """Whether there may be more."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events somebody follows. Who may see the same and wants the same gets the same."""

    job_id: UUID | None
    """All jobs when empty."""
    kinds: tuple[Kind, ...]
    """All kinds when empty."""
    who: Principal = field(compare=False)
    owner: str | None
    types: tuple[str, ...]

    @classmethod
    def of(cls, who: Principal, job_id: UUID | None, kinds: tuple[Kind, ...]) -> Self:
        return cls(job_id, kinds, who, who.owner, who.types)


class EventPages:
    """Reads the store for everyone who follows events."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reading: dict[tuple[Wanted, int], asyncio.Task[Page]] = {}

    async def newest(self) -> int:
        """The id of the newest event of all."""
        return await self._store.newest_event()

    async def page(self, wanted: Wanted, after: int) -> Page:
        """The wanted events above ``after``."""
        reading = self._reading.get((wanted, after))
        if reading is None:
            reading = self._reading[wanted, after] = asyncio.create_task(self._read(wanted, after))
            reading.add_done_callback(lambda _: self._reading.pop((wanted, after)))
        return await asyncio.shield(reading)

    async def _read(self, wanted: Wanted, after: int) -> Page:
        # In this order: what is stored in between is above this id, or on the page.
        newest = await self._store.newest_event()
        found = await self._store.events(
            after=after, job_id=wanted.job_id, limit=PAGE, who=wanted.who, kinds=wanted.kinds
        )
        full = len(found) == PAGE
        seen = found[-1].id if found else after
        messages = tuple(EventView.model_validate(event).model_dump_json() for event in found)
        return Page(messages, seen if full else max(seen, newest), full)
