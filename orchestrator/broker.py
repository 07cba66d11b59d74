"""Wakes whoever waits for news. It carries none itself.

A viewer that is woken reads from the store what came after its own cursor, so a slow one costs nothing but its own
time, nothing is queued for it, and nothing is lost.
"""

import asyncio
from uuid import UUID
from weakref import WeakValueDictionary


class Bell:
    """Wakes those who listen, on the event loop that owns it."""

    def __init__(self) -> None:
        self._stroke = asyncio.Event()

    def ring(self) -> None:
        """Wake every listener."""
        self._stroke.set()
        self._stroke = asyncio.Event()

    def listen(self) -> asyncio.Event:
        """The event the next ``ring`` sets. Take it *before* reading, or a ring in between is missed."""
        return self._stroke


class Broker:
    """A bell for all news, and one for the news of each job that anyone listens to."""

    def __init__(self) -> None:
        self._all = Bell()
        self._strokes: WeakValueDictionary[UUID, asyncio.Event] = WeakValueDictionary()
        self.closed = False

    def ring(self, *job_ids: UUID) -> None:
        """Wake those who wait for news of these jobs and of all jobs; everyone when it is not said whose they are."""
        self._all.ring()
        for job_id in job_ids or list(self._strokes):
            stroke = self._strokes.pop(job_id, None)
            if stroke is not None:
                stroke.set()

    def close(self) -> None:
        """Wake every waiter for the last time."""
        self.closed = True
        self.ring()

    def listen(self, job_id: UUID | None = None) -> asyncio.Event:
        """The event that the next news set, of one job or of all. Take it *before* reading, or a ring is missed."""
        if job_id is None:
            return self._all.listen()
        stroke = self._strokes.get(job_id)
        if stroke is None:
            stroke = self._strokes[job_id] = asyncio.Event()
        return stroke
