"""The threshold that takes the place of a ranking within the batch."""

import pytest
import torch
from torch import Tensor

from worker_image.sae.calibration import calibrate
from worker_image.sae.config import SaeConfig
from worker_image.sae.evaluation import evaluate
from worker_image.sae.families import build_sae
from worker_image.sae.families.batch_topk import BatchTopKSae
from worker_image.sae.trainer import Trainer
from worker_image.sae.worlds import INDEPENDENT, World


def axes(k: int = 1) -> BatchTopKSae:
    """An autoencoder whose latents are the input's three dimensions."""
    sae = build_sae(SaeConfig(d_in=3, d_sae=3, k=k, family="batch_topk"))
    assert isinstance(sae, BatchTopKSae)
    with torch.no_grad():
        sae.W_enc_FD.copy_(torch.eye(3))
        sae.W_dec_FE.copy_(torch.eye(3))
    return sae


def test_it_is_the_mean_over_batches_of_the_smallest_that_is_kept() -> None:
    sae = axes()
    # Of each two tokens the two largest are kept: 5 and 3, then 4 and 1.
    x_ND = torch.tensor([[5.0, 3.0, 2.0], [0.0, 1.0, 0.5], [4.0, 0.0, 0.2], [-1.0, 1.0, 0.9]])

    calibrate(sae, x_ND, batch_tokens=2)

    assert sae.threshold.item() == pytest.approx(2.0)


def test_activations_of_0_do_not_count_as_kept() -> None:
    sae = axes(k=3)

    calibrate(sae, torch.tensor([[2.0, -1.0, 0.0], [0.7, -3.0, -0.5]]), batch_tokens=2)

    assert sae.threshold.item() == pytest.approx(0.7)


def test_tokens_too_few_for_a_batch_are_left_out_unless_they_are_all() -> None:
    x_ND = torch.tensor([[5.0, 3.0, 2.0], [0.0, 1.0, 0.5], [0.0, 0.0, 0.1]])
    whole, part = axes(), axes()

    calibrate(whole, x_ND, batch_tokens=2)
    calibrate(part, x_ND[2:], batch_tokens=2)

    assert whole.threshold.item() == pytest.approx(3.0)
    assert part.threshold.item() == pytest.approx(0.1)


def test_where_nothing_is_active_nothing_passes() -> None:
    sae = axes()

    calibrate(sae, -torch.ones(4, 3), batch_tokens=2)

    assert not (sae(torch.ones(1, 3), deployed=True).code.acts_P > 0).any()


def test_other_families_are_left_as_they_are() -> None:
    sae = build_sae(SaeConfig(d_in=3, d_sae=3, k=1))
    before = {name: value.clone() for name, value in sae.state_dict().items()}

    calibrate(sae, torch.ones(4, 3), batch_tokens=2)

    assert all(torch.equal(value, before[name]) for name, value in sae.state_dict().items())


@pytest.mark.parametrize("family", ["batch_topk", "matryoshka"])
def test_the_l0_in_use_is_that_of_training_within_a_few_percent(family: str) -> None:
    torch.set_num_threads(1)
    world = World(INDEPENDENT)
    config = SaeConfig(d_in=64, d_sae=64, k=2, family=family, steps=150, lr=1e-3)  # type: ignore[arg-type]
    trainer, generator = Trainer(config), world.generator(0)
    for _ in range(config.steps):
        trainer.train_step(world.sample(256, generator).x_BD)

    held_out_ND: Tensor = world.sample(8192, generator).x_BD
    calibrate(trainer.sae, held_out_ND, batch_tokens=256)

    fresh_ND = world.sample(8192, generator).x_BD
    training, deployed = evaluate(trainer.sae, fresh_ND, 256), evaluate(trainer.sae, fresh_ND, 256, deployed=True)
    assert training.l0 == pytest.approx(2.0, abs=0.01)
    assert deployed.l0 == pytest.approx(2.0, rel=0.05)
    assert deployed.fvu == pytest.approx(training.fvu, rel=0.05)
