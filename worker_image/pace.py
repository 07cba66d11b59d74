"""How fast something goes: a moving average, and the time left."""

import time
from collections.abc import Callable


class Pace:
    """Units per second, averaged over roughly the last ``window_s`` seconds of work.

    Time before ``start`` does not count, so calling it again leaves out what happened in between.
    """

    def __init__(self, window_s: float = 20.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._clock = clock
        self._units = 0.0
        self._seconds = 0.0
        self._since: float | None = None
        self._all_units = self._all_seconds = 0.0
        self.peak_per_s = 0.0
        """The highest ``per_s`` so far."""

    def start(self) -> None:
        """Work begins now."""
        self._since = self._clock()

    def advance(self, units: float) -> None:
        """So many units were done since the last call."""
        now = self._clock()
        if self._since is not None:
            spent = now - self._since
            fade = max(0.0, 1 - spent / self._window_s)
            self._units = self._units * fade + units
            self._seconds = self._seconds * fade + spent
            self._all_units += units
            self._all_seconds += spent
            self.peak_per_s = max(self.peak_per_s, self.per_s or 0.0)
        self._since = now

    @property
    def per_s(self) -> float | None:
        """Units per second; None until anything was measured."""
        return self._units / self._seconds if self._seconds > 0 else None

    @property
    def average_per_s(self) -> float | None:
        """Units per second of all work so far; None until anything was measured."""
        return self._all_units / self._all_seconds if self._all_seconds > 0 else None

    def seconds_for(self, units: float) -> float | None:
        """How long so many units will take; None until anything was measured."""
        return units / self.per_s if self.per_s else None
