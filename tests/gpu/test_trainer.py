"""Training on a GPU gives what training on the CPU gives."""

import pytest
import torch

from worker_image.sae.config import SaeConfig
from worker_image.sae.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]


def config() -> SaeConfig:
    return SaeConfig(d_in=32, d_sae=128, k=4, auxk_alpha=1 / 32, auxk_k=None, dead_after_tokens=256, steps=20, lr=1e-3)


def test_twenty_steps_agree_with_the_cpu() -> None:
    batches = torch.randn(20, 64, 32, generator=torch.Generator().manual_seed(0))
    losses = {}
    for device in ("cpu", "cuda"):
        trainer = Trainer(config(), device)
        losses[device] = [trainer.train_step(batch_BD.to(device)).loss.total.item() for batch_BD in batches]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-2)


def test_a_restored_trainer_goes_on_from_the_same_loss() -> None:
    batch_BD = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)).cuda()
    trainer = Trainer(config(), "cuda")
    for _ in range(5):
        trainer.train_step(batch_BD)
    again = Trainer(config(), "cuda")
    again.restore(trainer.state())
    assert again.train_step(batch_BD).loss.total.item() == pytest.approx(
        trainer.train_step(batch_BD).loss.total.item(), rel=1e-4
    )
