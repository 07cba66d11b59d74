"""Wakes whoever waits for news. It carries none itself.

A viewer that is woken reads from the store what came after its own cursor, so a slow one costs nothing but its own
time, nothing is queued for it, and nothing is lost.
"""

import asyncio


class Broker:
    """One bell for the event loop that owns it."""

    def __init__(self) -> None:
        self._bell = asyncio.Event()
        self.closed = False

    def ring(self) -> None:
        """Wake every waiter."""
        self._bell.set()
        self._bell = asyncio.Event()

    def close(self) -> None:
        """Wake every waiter for the last time."""
        self.closed = True
        self.ring()

    def listen(self) -> asyncio.Event:
        """The event the next ``ring`` sets. Take it *before* reading, or a ring in between is missed."""
        return self._bell
