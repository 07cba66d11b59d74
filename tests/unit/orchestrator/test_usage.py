import pytest

from orchestrator.usage import accrued, decayed, weight


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
