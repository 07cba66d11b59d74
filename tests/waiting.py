"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable


def until(
    condition: Callable[[], object],
    what: str,
    seen: Callable[[], object] = lambda: "",
    *,
    timeout_s: float = 20.0,
) -> None:
    """Return once ``condition`` holds; fail with ``what`` was awaited and what was ``seen`` instead."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}; {seen()}")
        time.sleep(0.01)
