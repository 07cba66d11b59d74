"""Training on a GPU gives what training on the CPU gives, for every family."""

from typing import get_args

import pytest
import torch

from worker_image.sae.config import Family, SaeConfig
from worker_image.sae.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]

FAMILIES = get_args(Family)


def trainer(family: str, device: str, **changes: object) -> Trainer:
    shape = {"d_in": 32, "d_sae": 128, "k": 4, "dead_after_tokens": 256, "steps": 20, "lr": 1e-3}
    return Trainer(SaeConfig(**(shape | {"family": family} | changes)), device)  # type: ignore[arg-type]


def batches(n: int) -> torch.Tensor:
    return torch.randn(n, 64, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_steps_agree_with_the_cpu(family: str) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        made = trainer(family, device)
        losses[device] = [made.train_step(batch_BD.to(device)).loss.total.item() for batch_BD in batches(20)]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-2)


@pytest.mark.parametrize(
    "changes", [{}, {"encoder_dtype": "bfloat16"}, {"encoder_dtype": "float16"}, {"optimizer": "muon"}], ids=str
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_restored_trainer_goes_on_from_the_same_loss(family: str, changes: dict[str, object]) -> None:
    made, again = trainer(family, "cuda", **changes), trainer(family, "cuda", **changes)
    *first, last = batches(6).cuda()
    for batch_BD in first:
        made.train_step(batch_BD)
    again.restore(made.state())
    expected = made.train_step(last).loss.total.item()
    assert again.train_step(last).loss.total.item() == pytest.approx(expected, rel=1e-4)


def test_a_gpu_without_room_for_a_batch_takes_it_in_parts() -> None:
    made = trainer("standard", "cuda", d_sae=65_536)
    batch_BD = torch.randn(65_536, 32, device="cuda")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 24 * 2**30 / total))
    try:
        made.train_step(batch_BD)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert made.micro_batch_size is not None
    assert made.tokens_trained == len(batch_BD)
