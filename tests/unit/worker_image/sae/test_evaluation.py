"""Measuring on held-out tokens: the loss is the one that training minimises, at the weights it is given."""

import pytest
import torch

from worker_image.sae.config import SaeConfig
from worker_image.sae.evaluation import evaluate
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
