"""Rates and the time left, on a clock the test turns."""

import pytest

from worker_image.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_known_before_anything_was_done() -> None:
    pace = Pace(clock=Clock())
    pace.start()
    assert pace.per_s is None
    assert pace.seconds_for(10) is None


def test_a_steady_rate_is_found() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    pace.start()
    for _ in range(5):
        clock.now += 0.5
        pace.advance(10)
    assert pace.per_s == pytest.approx(20)
    assert pace.seconds_for(100) == pytest.approx(5)


def test_time_before_a_new_start_does_not_count() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    pace.start()
    clock.now += 1
    pace.advance(10)
    clock.now += 1000
    pace.start()
    clock.now += 1
    pace.advance(10)
    assert pace.per_s == pytest.approx(10)


def test_the_past_fades() -> None:
    clock = Clock()
    pace = Pace(window_s=10, clock=clock)
    pace.start()
    for rate in (1, 100):
        for _ in range(60):
            clock.now += 1
            pace.advance(rate)
    assert pace.per_s == pytest.approx(100, rel=0.01)


def test_the_average_is_of_all_work_and_the_peak_is_kept() -> None:
    clock = Clock()
    pace = Pace(window_s=1, clock=clock)
    pace.start()
    for units in (10, 40, 10):
        clock.now += 1
        pace.advance(units)
    assert pace.average_per_s == pytest.approx(20)
    assert pace.peak_per_s == pytest.approx(40)
    assert pace.per_s == pytest.approx(10)
