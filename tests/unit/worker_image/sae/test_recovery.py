"""Scores against small cases worked by hand."""

import pytest
import torch

from worker_image.sae.recovery import Detection, alignment, mean_correlation, uniqueness

AXES = torch.eye(3)


def test_alignment_ignores_length_and_sign() -> None:
    W_dec_FE = torch.tensor([[0.0, -5.0, 0.0], [3.0, 4.0, 0.0]])

    found_FG = alignment(W_dec_FE, 2 * AXES)

    assert torch.allclose(found_FG, torch.tensor([[0.0, 1.0, 0.0], [0.6, 0.8, 0.0]]))


def test_matching_takes_the_best_whole_rather_than_the_best_pair_first() -> None:
    # Greedy would pair latent 0 with feature 0 (.9) and be left with .1; the best sum is .8 + .7.
    assert mean_correlation(torch.tensor([[0.9, 0.8], [0.7, 0.1]])) == pytest.approx(0.75)


@pytest.mark.parametrize("transposed", [False, True])
def test_what_is_left_over_when_the_numbers_differ_does_not_count(transposed: bool) -> None:
    table = torch.tensor([[1.0, 0.0, 0.3], [0.0, 0.5, 0.2]])

    assert mean_correlation(table.T if transposed else table) == pytest.approx(0.75)


def test_latents_that_share_a_feature_are_not_unique() -> None:
    assert uniqueness(torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.6], [0.7, 0.0]])) == 0.5


def test_f1_is_the_mean_of_each_latents_own() -> None:
    detection = Detection(torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.2, 0.3]]))
    truth_BG = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.bool)
    fires_BF = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)

    detection.add(fires_BF[:2], truth_BG[:2])
    detection.add(fires_BF[2:], truth_BG[2:])

    # Precision 2/3 and recall 2/3; 1 and 1/2; never.
    assert detection.f1 == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert detection.dead_share == pytest.approx(1 / 3)
