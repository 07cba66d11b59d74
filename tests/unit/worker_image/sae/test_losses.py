"""Each loss term by hand, and the gradients of all of them against plain autograd, for every family and wiring."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.unit.worker_image.sae.plain import plain_loss
from worker_image.sae.config import SaeConfig
from worker_image.sae.dead import auxk_loss, ghost_loss
from worker_image.sae.families import build_sae
from worker_image.sae.losses import Coefficients, loss_of
from worker_image.sae.metrics import fvu
from worker_image.sae.model import Sae
from worker_image.sae.whole_batch import WholeBatch

NONE_DEAD = torch.tensor([], dtype=torch.int64)
COEFFICIENT = 0.3

FAMILIES: dict[str, dict[str, object]] = {
    "topk": {"family": "topk"},
    "multi-topk": {"family": "topk", "multi_topk": True},
    "batch_topk": {"family": "batch_topk"},
    "matryoshka": {"family": "matryoshka", "matryoshka_fractions": (0.2, 0.3, 0.5)},
    "jumprelu quadratic": {"family": "jumprelu", "jumprelu_bandwidth": 0.4, "jumprelu_threshold": 0.3, "target_l0": 4},
    "jumprelu tanh": {"family": "jumprelu", "jumprelu_recipe": "tanh"},
    "gated": {"family": "gated"},
    "standard april": {"family": "standard"},
    "standard unit norm": {"family": "standard", "l1_recipe": "unit_norm"},
    "standard tied": {"family": "standard", "l1_recipe": "unit_norm", "tied_weights": True},
}
WIRINGS: dict[str, dict[str, object]] = {
    "autoencoder": {},
    "skip autoencoder": {"skip_connection": True},
    "transcoder": {"d_out": 4},
    "skip transcoder": {"d_out": 4, "skip_connection": True},
    "crosscoder": {"layers": 2},
}


def small_sae(**changes: object) -> Sae:
    config = SaeConfig(**({"d_in": 6, "d_sae": 20, "k": 3, "auxk_k": 2} | changes))  # type: ignore[arg-type]
    sae = build_sae(config).double()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in sae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        sae.input_norm.fill_(1.7)
    return sae


def tokens(n: int = 32, width: int = 6, seed: int = 2) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ends(sae: Sae) -> tuple[Tensor, Tensor]:
    x = tokens()
    return x, tokens(width=4, seed=3) if sae.config.is_transcoder else x


def weights(sae: Sae) -> Coefficients:
    return Coefficients(COEFFICIENT, sae.config.auxk_alpha)


def gradients_of(sae: Sae, loss: Tensor) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, list(sae.parameters()), allow_unused=True))


def assert_same_as_plain(sae: Sae, dead: Tensor) -> None:
    x, y = ends(sae)
    ours = loss_of(sae, x, y, sae(x), dead, weights(sae)).total
    plain = plain_loss(sae, x, y, dead, COEFFICIENT)
    torch.testing.assert_close(ours, plain)
    for found, wanted in zip(gradients_of(sae, ours), gradients_of(sae, plain), strict=True):
        assert (found is None) == (wanted is None)
        if found is not None and wanted is not None:
            torch.testing.assert_close(found, wanted)


KINDS = [
    (family, wiring)
    for family in FAMILIES
    for wiring in WIRINGS
    # A transcoder reads and writes different things: its weights cannot be tied.
    if not (family == "standard tied" and "transcoder" in wiring)
]


@pytest.mark.parametrize(("family", "wiring"), KINDS)
def test_gradients_equal_plain_autograd(family: str, wiring: str) -> None:
    assert_same_as_plain(small_sae(**FAMILIES[family], **WIRINGS[wiring]), NONE_DEAD)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dead", [torch.arange(5, 15), torch.tensor([4])], ids=["more than auxk_k", "fewer"])
def test_gradients_with_dead_latents_equal_plain_autograd(family: str, dead: Tensor) -> None:
    assert_same_as_plain(small_sae(**FAMILIES[family], auxk_alpha=0.5), dead)


@pytest.mark.parametrize(("family", "wiring"), KINDS)
@pytest.mark.parametrize("dead", [torch.arange(5, 15), torch.tensor([4])], ids=["ten", "one"])
def test_gradients_with_ghosts_of_dead_latents_equal_plain_autograd(
    family: str, wiring: str, dead: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What keeps ratios finite changes them by some millionths.
    monkeypatch.setattr("worker_image.sae.dead._SMALLEST", 0.0)
    assert_same_as_plain(small_sae(**FAMILIES[family], **WIRINGS[wiring], dead_latents="ghost"), dead)


@pytest.mark.parametrize("family", ["standard april", "gated", "jumprelu tanh"])
def test_a_code_held_densely_has_the_same_gradients_as_a_sparse_one(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, x = small_sae(**FAMILIES[family]), tokens()
    found = []
    for dense_from in (0.0, 1.0):
        monkeypatch.setattr("worker_image.sae.code._DENSE_FROM", dense_from)
        out = sae(x)
        assert (out.code.places.pattern is None) == (dense_from == 0.0)
        found.append(gradients_of(sae, loss_of(sae, x, x, out, NONE_DEAD, weights(sae)).total))
    for dense, sparse in zip(*found, strict=True):
        torch.testing.assert_close(dense, sparse)


def test_fvu_worked_by_hand() -> None:
    x = torch.tensor([[0.0], [2.0]])
    # Variance 1 + 1; errors 0 and 1.
    assert fvu(x, torch.tensor([[0.0], [1.0]])).item() == 0.5


def test_auxk_trains_the_dead_encoder_rows_and_no_living_one() -> None:
    sae, x, dead = small_sae(), tokens(), torch.tensor([2, 7])
    encoder = torch.autograd.grad(auxk_loss(sae, x, x, sae(x), dead), sae.W_enc_FD)[0]
    assert encoder[dead].abs().sum(dim=1).gt(0).all()
    encoder[dead] = 0
    assert not encoder.any()


def test_auxk_is_zero_without_dead_latents() -> None:
    sae, x = small_sae(), tokens()
    assert auxk_loss(sae, x, x, sae(x), NONE_DEAD).item() == 0


def test_auxk_is_scaled_by_the_share_of_dead_latents_it_asked_for() -> None:
    x, dead = tokens(), torch.tensor([2])
    one_wanted, four_wanted = small_sae(auxk_k=1), small_sae(auxk_k=4)
    full = auxk_loss(one_wanted, x, x, one_wanted(x), dead)
    torch.testing.assert_close(auxk_loss(four_wanted, x, x, four_wanted(x), dead), full / 4)


def test_a_residual_without_variance_gives_no_auxk_and_no_nan() -> None:
    sae = small_sae()
    x = tokens(1).expand(4, 6)  # one token four times: every residual is the same
    loss = auxk_loss(sae, x, x, replace(sae(x), y_hat_BE=x + 1.0), torch.tensor([2, 7]))
    assert loss.item() == 0
    assert all(gradient is None or gradient.eq(0).all() for gradient in gradients_of(sae, loss))


def test_alpha_zero_turns_auxk_off() -> None:
    sae, x = small_sae(auxk_alpha=0.0), tokens()
    loss = loss_of(sae, x, x, sae(x), torch.tensor([2, 7]), weights(sae))
    assert loss.auxk is None
    assert loss.total.item() == loss.reconstruction.item()


def test_ghost_gradients_are_as_large_as_the_reconstruction_and_reach_dead_latents_alone() -> None:
    sae, x, dead = small_sae(dead_latents="ghost"), tokens(), torch.tensor([2, 7])
    out = sae(x)
    ghost = ghost_loss(sae, x, x, out, dead, fvu(x, out.y_hat_BE))
    torch.testing.assert_close(ghost, fvu(x, out.y_hat_BE), rtol=1e-4, atol=0)
    for weight in (sae.W_enc_FD, sae.W_dec_FE):
        gradient = torch.autograd.grad(ghost, weight, retain_graph=True)[0]
        assert gradient[dead].abs().sum(dim=1).gt(0).all()
        gradient[dead] = 0
        assert not gradient.any()


def test_ghost_gradients_stay_finite_for_large_pre_activations() -> None:
    sae, x = small_sae(dead_latents="ghost"), 1e4 * tokens()
    out = sae(x)
    assert ghost_loss(sae, x, x, out, torch.tensor([2]), fvu(x, out.y_hat_BE)).isfinite()


def test_jumprelu_estimates_the_threshold_gradient_worked_by_hand() -> None:
    config = SaeConfig(d_in=1, d_sae=1, family="jumprelu", jumprelu_threshold=1.0, jumprelu_bandwidth=0.5, target_l0=1)
    sae = build_sae(config)
    with torch.no_grad():
        for weight in (sae.W_enc_FD, sae.W_dec_FE):
            weight.fill_(1.0)
    # Pre-activations 0.9 and 1.1 are within 0.25 of the threshold 1, 3 is not; L0 is 2/3, so the loss is 1/9.
    x = torch.tensor([[0.9], [1.1], [3.0]])
    loss = sae.losses(x, x, sae(x), NONE_DEAD, WholeBatch(x)).sparsity
    assert loss is not None
    assert loss.item() == pytest.approx(1 / 9)
    # d loss / d L0 = 2 (2/3 - 1); d L0 / d theta = -(1/0.5) * 2/3, and theta's derivative by its logarithm is 1.
    gradient = torch.autograd.grad(loss, sae.log_threshold_F)[0]
    assert gradient.item() == pytest.approx(2 * (2 / 3 - 1) * (-2 * 2 / 3))
