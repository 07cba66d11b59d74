"""How often: token buckets by name."""

import time
from collections.abc import Callable

MOST_NAMES = 10_000
"""Buckets kept; beyond that those that are full again are forgotten."""


class Buckets:
    """One bucket of ``burst`` tokens for each name, refilled with ``per_s`` tokens a second."""

    def __init__(self, per_s: float, burst: float, now: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._now = per_s, burst, now
        self._left: dict[str, tuple[float, float]] = {}

    def wait_s(self, name: str) -> float:
        """Seconds until there is a token for ``name``; 0 when there is one."""
        missing = 1 - self._tokens(name, self._now())
        return max(0.0, missing / self._per_s)

    def take(self, name: str) -> float:
        """Take a token and answer 0; when there is none, the seconds until there is one."""
        now = self._now()
        tokens = self._tokens(name, now)
        if tokens < 1:
            return (1 - tokens) / self._per_s
        if name not in self._left and len(self._left) >= MOST_NAMES:
            self._forget(now)
        self._left[name] = tokens - 1, now
        return 0.0

    def _tokens(self, name: str, now: float) -> float:
        left, since = self._left.get(name, (self._burst, now))
        return min(self._burst, left + (now - since) * self._per_s)

    def _forget(self, now: float) -> None:
        """Drop the full ones, which say nothing, or else the older half: memory is bounded whoever knocks."""
        kept = {name: left for name, left in self._left.items() if self._tokens(name, now) < self._burst}
        if len(kept) >= MOST_NAMES:
            newest = sorted(kept.items(), key=lambda item: item[1][1])[MOST_NAMES // 2 :]
            kept = dict(newest)
        self._left = kept
