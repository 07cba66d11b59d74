"""What each mode makes of activations, and that the state survives being stored."""

import json

import pytest
import torch

from worker_image.sae.normalisation import Normalisation, NormalisationMode, Scaling

SAMPLE_ND = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
COLUMNS = {"layers.0": slice(0, 2), "layers.1": slice(2, 4)}


def test_the_mean_norm_becomes_the_root_of_the_width() -> None:
    made = Normalisation.measured(SAMPLE_ND, "mean_norm")
    assert made.scale == pytest.approx(2**0.5 / 7.5)  # the norms are 5 and 10
    assert made.mean_D is None


def test_the_mean_square_of_an_entry_becomes_one() -> None:
    assert Normalisation.measured(SAMPLE_ND, "unit_mean_square").scale == pytest.approx((125 / 4) ** -0.5)


def test_standardising_takes_the_mean_off_first() -> None:
    made = Normalisation.measured(SAMPLE_ND, "standardise")
    assert made.mean_D is not None
    assert made.mean_D.tolist() == [4.5, 6.0]
    assert made.scale == pytest.approx(((1.5**2 + 2**2) / 2) ** -0.5)


@pytest.mark.parametrize("mode", ["mean_norm", "unit_mean_square", "standardise"])
def test_activations_that_are_all_zero_are_left_alone(mode: NormalisationMode) -> None:
    assert Normalisation.measured(torch.zeros(3, 2), mode).scale == 1


def test_each_hookpoint_is_normalised_for_itself() -> None:
    sample_NW = torch.cat([SAMPLE_ND, 100 * SAMPLE_ND], dim=1)
    normalised_NW = Scaling.measured(sample_NW, COLUMNS, "mean_norm").apply(sample_NW)
    for part in COLUMNS.values():
        assert normalised_NW[:, part].norm(dim=1).mean() == pytest.approx(2**0.5)


def test_without_normalisation_activations_stay_bit_for_bit() -> None:
    sample_NW = torch.randn(4, 4)
    assert torch.equal(Scaling.measured(sample_NW, COLUMNS, "none").apply(sample_NW), sample_NW)


def test_a_stored_scaling_applies_bit_for_bit_as_the_first() -> None:
    sample_NW = torch.randn(5, 4)
    made = Scaling.measured(sample_NW, COLUMNS, "standardise")
    stored = Scaling.from_json(json.loads(json.dumps(made.to_json())), COLUMNS)
    assert torch.equal(stored.apply(sample_NW), made.apply(sample_NW))
