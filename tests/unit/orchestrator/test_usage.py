from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from orchestrator.domain import Attempt
from orchestrator.usage import accrued, decayed, gpu_hours, weight

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


def test_use_counts_half_after_each_half_life() -> None:
    assert decayed(100.0, 20.0, 10.0) == pytest.approx(25.0)


def test_use_over_a_short_time_is_rate_times_time() -> None:
    assert accrued(2.0, 1.0, 1e9) == pytest.approx(2.0)


def test_use_told_in_two_pieces_is_the_same_as_in_one() -> None:
    first = decayed(accrued(1.0, 30.0, 50.0), 70.0, 50.0)
    assert first + accrued(1.0, 70.0, 50.0) == pytest.approx(accrued(1.0, 100.0, 50.0))


def test_a_core_counts_a_small_part_of_a_gpu() -> None:
    assert weight(cpus=0, gpus=1) == 1
    assert 0 < weight(cpus=1, gpus=0) < 0.1


def _attempt(gpus: int, started: float | None, ended: float | None) -> Attempt:
    """Of so many GPUs, between hours after the beginning."""
    at = [None if hour is None else BEGINNING + timedelta(hours=hour) for hour in (started, ended)]
    names = tuple(f"GPU-{number}" for number in range(gpus))
    return Attempt(uuid4(), 1, "docker", BEGINNING, gpus=names, started_at=at[0], ended_at=at[1])


def test_gpu_hours_are_those_of_every_attempt_times_its_gpus() -> None:
    attempts = [_attempt(2, 0, 1.5), _attempt(1, 2, 2.25), _attempt(0, 3, 4)]
    assert gpu_hours(attempts, BEGINNING + timedelta(hours=9)) == pytest.approx(3.25)


def test_an_attempt_that_runs_counts_until_now_and_one_that_never_started_not_at_all() -> None:
    attempts = [_attempt(1, 1, None), _attempt(8, None, None)]
    assert gpu_hours(attempts, BEGINNING + timedelta(hours=3)) == pytest.approx(2)
