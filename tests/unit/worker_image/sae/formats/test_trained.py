"""What is deployed computes what was trained, and what is rebuilt computes what was deployed."""

import pytest
import torch

from tests.unit.worker_image.sae.formats.saes import FAMILIES, D, E, F, K, drawn, every_sae, some_sae
from worker_image.sae.config import SaeConfig
from worker_image.sae.families import build_sae
from worker_image.sae.formats.deployed import DeployedSae, Family
from worker_image.sae.formats.refusals import CannotExpress
from worker_image.sae.formats.trained import deployed, rebuilt
from worker_image.sae.model import Sae
from worker_image.sae.normalisation import Affine

X_BD = drawn(64, D, seed=20)
WIRINGS: dict[str, dict[str, object]] = {
    "autoencoder": {},
    "skip": {"skip_connection": True, "skip_share": 0.5},
    "crosscoder": {"layers": 2},
    "transcoder": {"d_out": E},
    "skip_transcoder": {"d_out": E, "skip_connection": True},
}


def trained(family: Family, **options: object) -> Sae:
    """An autoencoder whose every weight differs from where it starts."""
    sae = build_sae(SaeConfig(**({"d_in": D, "d_sae": F, "k": K, "family": family} | options)))  # type: ignore[arg-type]
    with torch.no_grad():
        for seed, parameter in enumerate(sae.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=seed) / 2)
        sae.input_norm.fill_(1.7)
    if family in ("batch_topk", "matryoshka"):
        sae.get_buffer("threshold").fill_(0.3)
    return sae


def same_as(made: DeployedSae, x_BD: torch.Tensor, y_BE: torch.Tensor, latents_BF: torch.Tensor) -> None:
    assert latents_BF.count_nonzero()
    torch.testing.assert_close(made.encode(x_BD), latents_BF, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.decode(latents_BF, x_BD), y_BE, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wiring", WIRINGS)
@torch.no_grad()
def test_what_is_deployed_computes_what_was_trained(family: Family, wiring: str) -> None:
    sae = trained(family, **WIRINGS[wiring])
    out = sae(X_BD, deployed=True)
    same_as(deployed(sae), X_BD, out.y_hat_BE, out.code.dense())


@pytest.mark.parametrize("wiring", WIRINGS)
@torch.no_grad()
def test_it_reads_raw_activations_where_training_read_normalised_ones(wiring: str) -> None:
    sae = trained("jumprelu", **WIRINGS[wiring])
    width = sae.config.width_out
    of_input = Affine(drawn(D, seed=21).exp(), drawn(D, seed=22))
    of_output = Affine(drawn(width, seed=23).exp(), drawn(width, seed=24)) if sae.config.is_transcoder else of_input
    out = sae((X_BD - of_input.mean_W) * of_input.scale_W, deployed=True)
    y_BE = out.y_hat_BE / of_output.scale_W + of_output.mean_W
    same_as(deployed(sae, of_input, of_output), X_BD, y_BE, out.code.dense())


@torch.no_grad()
def test_tied_weights_are_deployed_as_both() -> None:
    sae = trained("standard", tied_weights=True, l1_recipe="unit_norm")
    made = deployed(sae)
    assert torch.equal(made.W_enc_FD, sae.W_dec_FE)
    assert torch.equal(made.W_dec_FE, sae.W_dec_FE)


@torch.no_grad()
def test_the_tanh_recipes_thresholds_are_deployed_in_units_of_the_activations() -> None:
    sae = trained("jumprelu", jumprelu_recipe="tanh")
    out = sae(X_BD, deployed=True)
    same_as(deployed(sae), X_BD, out.y_hat_BE, out.code.dense())


def test_what_is_deployed_does_not_change_with_further_training() -> None:
    sae = trained("topk")
    made = deployed(sae)
    before = made.W_dec_FE.clone()
    with torch.no_grad():
        sae.W_dec_FE.zero_()
    assert torch.equal(made.W_dec_FE, before)


@pytest.mark.parametrize("family", ["batch_topk", "matryoshka"])
def test_a_threshold_that_nobody_calibrated_is_not_deployed(family: Family) -> None:
    sae = trained(family)
    sae.get_buffer("threshold").fill_(float("nan"))
    with pytest.raises(CannotExpress, match="not been calibrated"):
        deployed(sae)


def test_group_sizes_are_those_that_were_trained() -> None:
    sae = trained("matryoshka", matryoshka_fractions=(0.25, 0.25, 0.5))
    assert deployed(sae).group_sizes == (4, 4, 8)
    assert deployed(rebuilt(deployed(sae))).group_sizes == (4, 4, 8)


@pytest.mark.parametrize("name", dict(every_sae()))
@torch.no_grad()
def test_what_is_rebuilt_computes_what_was_deployed(name: str) -> None:
    sae = dict(every_sae())[name]
    out = rebuilt(sae)(X_BD, deployed=True)
    same_as(sae, X_BD, out.y_hat_BE, out.code.dense())


@torch.no_grad()
def test_a_threshold_below_zero_lets_what_is_above_zero_pass() -> None:
    sae = some_sae("jumprelu")
    assert sae.threshold is not None
    sae.threshold.sub_(10)
    out = rebuilt(sae)(X_BD, deployed=True)
    same_as(sae, X_BD, out.y_hat_BE, out.code.dense())
