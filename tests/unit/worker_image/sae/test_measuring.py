"""Figures of a deployed autoencoder: each worked out by hand or by the other way of getting it."""

import math

import pytest
import torch

from worker_image.sae.config import SaeConfig
from worker_image.sae.evaluation import evaluate
from worker_image.sae.families import build_sae
from worker_image.sae.measuring import Measuring
from worker_image.sae.metrics import density_shares, l2_ratio, loss_recovered


def test_batches_add_up_to_what_is_measured_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(50, 6, generator=generator) + 100  # far from 0: nothing may cancel
    sae = build_sae(SaeConfig(d_in=6, d_sae=12, k=3))
    measuring = Measuring(12, {"a": slice(0, 2), "b": slice(2, 6)})
    with torch.no_grad():
        for x_BD in x_ND.split(7):
            measuring.add(x_BD, sae(x_BD, deployed=True))
        whole = sae(x_ND, deployed=True)
    found, expected = measuring.result(), evaluate(sae, x_ND, 50, deployed=True)
    assert found.whole.fvu == pytest.approx(expected.fvu, rel=1e-4)
    assert found.values()["l0"] == pytest.approx(expected.l0)
    assert torch.equal(found.firings_F, expected.firings_F)
    part = x_ND[:, 2:].double()
    error = (part - whole.y_hat_BE[:, 2:].double()).square().sum() / (part - part.mean(0)).square().sum()
    assert found.parts["b"].fvu == pytest.approx(float(error), rel=1e-4)
    assert torch.allclose(found.mean_E, x_ND.double().mean(0))


def test_densities_fall_into_half_powers_of_ten() -> None:
    shares = density_shares(torch.tensor([0, 1, 10, 40, 1000]), 1000)
    assert {edge: share for edge, share in shares.items() if share} == {-3: 0.2, -2: 0.2, -1.5: 0.2, -0.5: 0.2}


def test_the_ratio_is_below_one_where_a_reconstruction_shrinks() -> None:
    assert l2_ratio(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.5]])).tolist() == [0.5]


def test_what_costs_nothing_to_ablate_cannot_be_recovered() -> None:
    assert loss_recovered(2.0, 3.0, 4.0) == 0.5
    assert math.isnan(loss_recovered(2.0, 2.0, 2.0))
