"""Sums that add up, and what follows from them."""

import pytest
import torch

from worker_image.lm.statistics import Statistics

ACTS_ND = torch.tensor([[3.0, 4.0], [-3.0, 4.0], [0.0, 10.0]])


def test_means_and_variances_are_those_of_the_rows() -> None:
    found = Statistics.of(ACTS_ND)
    assert found.mean_D.tolist() == [0.0, 6.0]
    assert found.variance_D.tolist() == pytest.approx([6.0, 8.0])
    assert found.mean_norm == pytest.approx(20 / 3)
    assert found.mean_square == pytest.approx(150 / 6)


def test_statistics_of_parts_add_up() -> None:
    acts_ND = torch.randn(5000, 3)
    whole, parts = Statistics.of(acts_ND), Statistics.of(acts_ND[:1]) + Statistics.of(acts_ND[1:])
    assert parts.rows == whole.rows
    torch.testing.assert_close(parts.variance_D, whole.variance_D)
    assert parts.summary() == pytest.approx(whole.summary())


def test_no_rows_have_no_mean_and_break_nothing() -> None:
    assert Statistics.none(2).mean_norm == 0
