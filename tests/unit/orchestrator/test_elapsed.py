"""The time since a moment."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.elapsed import Elapsed


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the wall clock and the machine's own count say."""
    said = {"time": 1_000_000.0, "monotonic": 50.0}
    for name in said:
        monkeypatch.setattr(time, name, lambda name=name: said[name])
    return said


def test_what_was_before_this_process_is_told_by_the_wall_clock(clocks: dict[str, float]) -> None:
    moment = datetime.fromtimestamp(clocks["time"], UTC) - timedelta(seconds=30)
    elapsed = Elapsed.since(moment)
    clocks["monotonic"] += 5
    assert elapsed.seconds == 35


@pytest.mark.parametrize("set_by_s", [3600, -3600])
def test_a_clock_that_is_set_changes_nothing(clocks: dict[str, float], set_by_s: float) -> None:
    elapsed = Elapsed.since(datetime.fromtimestamp(clocks["time"], UTC))
    clocks["time"] += set_by_s
    clocks["monotonic"] += 5
    assert elapsed.seconds == 5


def test_a_moment_to_come_counts_as_now(clocks: dict[str, float]) -> None:
    assert Elapsed.since(datetime.fromtimestamp(clocks["time"] + 60, UTC)).seconds == 0
