"""Measuring on held-out tokens: the loss is the one that training minimises, at the weights it is given."""

import pytest
import torch

from worker_image.sae.calibration import calibrate
from worker_image.sae.config import SaeConfig
from worker_image.sae.evaluation import Evaluation, evaluate
from worker_image.sae.losses import Coefficients, loss_of
from worker_image.sae.trainer import Trainer


@pytest.mark.parametrize("family", ["topk", "standard", "jumprelu", "gated"])
def test_the_held_out_loss_is_what_training_minimises(family: str) -> None:
    trainer = Trainer(SaeConfig(d_in=4, d_sae=8, family=family, k=2, seed=1))  # type: ignore[arg-type]
    x_ND = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    weights = Coefficients(sparsity=0.3, auxk_alpha=0.5)
    nobody = torch.empty(0, dtype=torch.int64)
    wanted = loss_of(trainer.sae, x_ND, x_ND, trainer.sae(x_ND), nobody, weights).total.item()
    assert evaluate(trainer.sae, x_ND, 32, weights=weights).loss == pytest.approx(wanted)


def test_the_held_out_loss_is_the_mean_over_tokens_and_not_over_batches() -> None:
    trainer = Trainer(SaeConfig(d_in=4, d_sae=8, family="standard", seed=1))
    x_ND = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    weights = Coefficients(sparsity=0.3, auxk_alpha=0.0)
    loss = [evaluate(trainer.sae, x_ND[part], 4, weights=weights).loss for part in (slice(4), slice(4, 5))]
    found = evaluate(trainer.sae, x_ND, 4, weights=weights).loss
    assert found == pytest.approx((4 * loss[0] + loss[1]) / 5)  # type: ignore[operator]


def test_without_weights_there_is_no_loss_to_tell() -> None:
    trainer = Trainer(SaeConfig(d_in=4, d_sae=8, k=2))
    found = evaluate(trainer.sae, torch.randn(8, 4), 8)
    assert found.loss is None
    assert "loss" not in found.values()


def test_shares_of_latents_worked_by_hand() -> None:
    # Two of four latents fire: one for every token, one for a single one.
    values = Evaluation(fvu=0.5, l0=1.25, firings_F=torch.tensor([4, 0, 1, 0]), tokens=4).values()
    assert (values["l0_share"], values["dead_share"]) == (1.25 / 4, 0.5)


def test_reconstructions_that_are_not_finite_are_told_from_tokens_that_vary_in_nothing() -> None:
    trainer = Trainer(SaeConfig(d_in=4, d_sae=8, k=2))
    assert evaluate(trainer.sae, torch.ones(1, 4), 8).is_finite
    with torch.no_grad():
        trainer.sae.W_dec_FE.fill_(torch.inf)
    assert not evaluate(trainer.sae, torch.randn(8, 4), 8).is_finite
    assert evaluate(trainer.sae, torch.full((8, 4), torch.nan), 8).is_finite


@pytest.mark.parametrize("family", ["topk", "batch_topk", "jumprelu", "standard"])
def test_a_batch_in_parts_measures_the_same(family: str) -> None:
    trainer = Trainer(SaeConfig(d_in=4, d_sae=8, family=family, k=2, seed=1))  # type: ignore[arg-type]
    x_ND = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    weights = Coefficients(sparsity=0.3, auxk_alpha=0.0)
    found = [evaluate(trainer.sae, x_ND, 16, weights=weights, at_once=size) for size in (None, 5)]
    assert found[0].values() == pytest.approx(found[1].values(), rel=1e-4)
    assert torch.equal(found[0].firings_F, found[1].firings_F)


def test_no_more_tokens_are_in_memory_than_fit_at_once() -> None:
    trainer = Trainer(SaeConfig(d_in=4, d_sae=8, family="batch_topk", k=2))
    sizes: list[int] = []
    trainer.sae.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    calibrate(trainer.sae, torch.randn(32, 4), 16, at_once=6)
    evaluate(trainer.sae, torch.randn(32, 4), 16, deployed=True, at_once=6)
    assert sizes == [6, 6, 4] * 4
