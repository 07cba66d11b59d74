"""One look at all that runs, for everybody who looks after one of it.

An executor is asked for the states of all attempts at once, and their supervisors hear when theirs changed: a hundred
running jobs cost as many questions as one. Where the engine says by itself that something happened, it is looked at
sooner and asked less often; that word is a hint and never taken for the truth.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from orchestrator.errors import EngineUnavailable
from orchestrator.executors.base import Executor, RunState

logger = logging.getLogger(__name__)

HINTED_S: Final = 2.0
"""Between two looks at attempts of an executor that tells of changes."""
GAP_S: Final = 0.02
"""Least rest after a look, so that what happens at once is seen at once."""
REST: Final = 4.0
"""Times as long as a look took until the next: an engine with a thousand containers is not kept busy by being asked."""
AWAY_S: Final = 1.0
"""Between two looks at an engine that does not answer."""
DEAF_S: Final = 5.0
"""Until an engine that stopped telling of changes, or never did, is listened to again."""


class Watch:
    """What is known of one attempt."""

    def __init__(self, handle: str, tell: Callable[[], None]) -> None:
        self.handle = handle
        self._tell = tell
        self._state: RunState | None = None
        self._error: EngineUnavailable | None = None
        self._known = asyncio.Event()

    async def state(self) -> RunState:
        """The attempt's state at the last look; waits for the first.

        Raises:
            EngineUnavailable: the engine did not answer then.
        """
        await self._known.wait()
        if self._error is not None:
            raise self._error
        assert self._state is not None
        return self._state

    def found(self, state: RunState | None, error: EngineUnavailable | None) -> None:
        """Take what the look found; tell when that is news."""
        news = self._known.is_set() and (state is not self._state or (error is None) != (self._error is None))
        self._state, self._error = state, error
        self._known.set()
        if news:
            self._tell()


class Lookout:
    """Watches the attempts of one executor. Belongs to one event loop."""

    def __init__(self, executor: Executor, poll_s: float) -> None:
        """``poll_s`` lies between two looks where the executor does not tell of changes."""
        self._executor, self._poll_s = executor, poll_s
        self._watches: set[Watch] = set()
        self._due = asyncio.Event()
        self._hinted = False
        self._rarely_s = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    @contextmanager
    def watch(self, handle: str, tell: Callable[[], None]) -> Iterator[Watch]:
        """Look at this attempt, too, and call ``tell`` whenever its state changed."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._look_on(), name=f"lookout {self._executor.name}"),
                asyncio.create_task(self._listen(), name=f"hints {self._executor.name}"),
            ]
        watch = Watch(handle, tell)
        self._watches.add(watch)
        self._due.set()
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    async def close(self) -> None:
        """Look no more."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._tasks = []

    async def _look_on(self) -> None:
        while True:
            self._due.clear()
            began = time.monotonic()
            if self._watches:
                await self._look()
            took_s = time.monotonic() - began
            await asyncio.sleep(max(GAP_S, REST * took_s) if self._watches else 0)
            pause_s = max(self._poll_s, self._rarely_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s if self._watches else None):
                    await self._due.wait()

    async def _look(self) -> None:
        watches = list(self._watches)
        self._rarely_s = HINTED_S if self._hinted else 0.0
        try:
            states = await self._executor.states({watch.handle for watch in watches})
        except Exception as error:
            if not isinstance(error, EngineUnavailable):
                # An answer that makes no sense to us is no verdict on anybody's attempt either.
                logger.exception("the states of attempts cannot be read")
                error = EngineUnavailable(f"the states of attempts cannot be read: {error!r}")
            self._rarely_s = AWAY_S
            for watch in watches:
                watch.found(None, error)
            return
        for watch in watches:
            watch.found(states[watch.handle], None)

    async def _listen(self) -> None:
        """Look at once when the engine says that something happened."""
        while True:
            try:
                async for _ in self._executor.changes():
                    self._hinted = True
                    self._due.set()
            except EngineUnavailable:
                pass
            except Exception:
                logger.exception("what the engine tells of changes cannot be read")
            if self._hinted:
                # It may have gone.
                self._hinted = False
                self._due.set()
            await asyncio.sleep(DEAF_S)
