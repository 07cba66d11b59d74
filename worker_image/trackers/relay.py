"""A tracker in a thread of its own: it may be slow, hang or fail, and the run goes on as if it were not there."""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from worker_image.reporter import Outcome
from worker_image.trackers.tracker import Config, Tracker

_ROOM = 10_000
"""Reports that may wait for a slow tracker; later ones are dropped, and counted."""
_LOOK_S = 0.1
"""Between two looks at whether anybody still takes them."""
_FAILURES = 5
"""In a row after which a tracker is told nothing more."""

Report = Callable[[Tracker], None]


class Relay:
    """Hands reports on, in order."""

    def __init__(self, name: str, begin: Callable[[], Tracker]) -> None:
        """``begin`` opens the tracker; it runs in the thread, too."""
        self.name = name
        self._begin = begin
        self._waiting: queue.Queue[Report | None] = queue.Queue(_ROOM)
        self._problems: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._opened = threading.Event()
        self._tracker: Tracker | None = None
        self._dropped = 0
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def run_id(self, wait_s: float = 0.0) -> str | None:
        """The tracker's name of its run; none while it is not open, or if it never will be."""
        self._opened.wait(wait_s)
        return self._tracker.run_id if self._tracker else None

    def log(self, step: int, values: dict[str, float]) -> None:
        self._hand(lambda tracker: tracker.log(step, values))

    def summary(self, config: Config) -> None:
        self._hand(lambda tracker: tracker.summary(config))

    def finish(self, outcome: Outcome, results: dict[str, float], wait_s: float) -> None:
        """Hand over the end and wait until all has arrived, ``wait_s`` at most."""
        until = time.monotonic() + wait_s
        for last in (lambda tracker: tracker.finish(outcome, results), None):
            self._insist(last, until)
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._problems.put(f"not everything had arrived after {wait_s:g} s")
        if self._dropped:
            self._problems.put(f"it was too slow, and {self._dropped} reports were left out")

    def problems(self) -> list[str]:
        """What went wrong since the last call, for people."""
        found = []
        while not self._problems.empty():
            found.append(self._problems.get())
        return found

    def _hand(self, report: Report) -> None:
        try:
            self._waiting.put_nowait(report)
        except queue.Full:
            self._dropped += 1

    def _insist(self, last: Report | None, until: float) -> None:
        """Wait for room rather than drop it: without its end the tracker's run would stay open for ever."""
        while self._thread.is_alive() and time.monotonic() < until:
            with suppress(queue.Full):
                self._waiting.put(last, timeout=_LOOK_S)
                return

    def _work(self) -> None:
        failures = 0
        try:
            self._tracker = self._begin()
        except BaseException as error:  # the task boundary: libraries exit, too
            self._problems.put(f"it could not be begun ({_said(error)}); nothing goes there")
            return
        finally:
            self._opened.set()
        while (report := self._waiting.get()) is not None:
            try:
                report(self._tracker)
                failures = 0
            except BaseException as error:
                failures += 1
                if failures == 1:
                    self._problems.put(_said(error))
                if failures == _FAILURES:
                    self._problems.put(f"it failed {failures} times in a row; nothing more goes there")
                    return


def _said(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
