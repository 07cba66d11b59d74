"""How often a step makes the host wait: for a value, or for a size, that only the device knows.

Tensors without contents stand in for those on a GPU: a step takes the same path with them, and cannot go on unseen by
what it does not know yet.
"""

import sys
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.unit.worker_image.sae.test_losses import FAMILIES
from worker_image.sae import sparse
from worker_image.sae.config import SaeConfig
from worker_image.sae.trainer import Trainer

FOUND = 6
"""So many positions are found wherever some are looked for."""


class HostReads(TorchDispatchMode):
    """Answers each read with a truth, or with so many positions, and counts it under the function that asked."""

    def __init__(self) -> None:
        super().__init__()
        self.by: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if name == "aten::_local_scalar_dense":
            self.by[reader()] += 1
            return 1
        if name == "aten::nonzero":
            self.by[reader()] += 1
            return torch.empty(FOUND, args[0].ndim, dtype=torch.int64, device="meta")
        if name.startswith(("aten::index", "aten::masked_select")):
            # How many values a mask picks is not known either.
            assert not any(is_mask(place) for each in args[1:] for place in as_list(each)), reader()
        return func(*args, **(kwargs or {}))


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def is_mask(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.bool


def reader() -> str:
    frame = sys._getframe(1)
    while "/worker_image/sae/" not in frame.f_code.co_filename or "/tests/" in frame.f_code.co_filename:
        assert frame.f_back is not None
        frame = frame.f_back
    return frame.f_code.co_name


def reads_of_a_step(monkeypatch: pytest.MonkeyPatch, *, measure: bool = False, **changes: object) -> Counter[str]:
    # There is no sparse product without contents; the kernel that a GPU has for it waits for nothing.
    monkeypatch.setattr(
        sparse, "_sampled_product", lambda y_BD, table_FD, pattern: y_BD.new_empty(pattern.latent_N.shape)
    )
    # Neither are there fused optimisers, hence another.
    config = SaeConfig(**({"d_in": 6, "d_sae": 24, "k": 3, "optimizer": "signum"} | changes))  # type: ignore[arg-type]
    trainer = Trainer(config, "meta")
    with HostReads() as reads:
        trainer.train_step(torch.empty(64, 6, device="meta"), measure=measure)
    return reads.by


ALWAYS = {
    "_dead_S": 1,  # how many are dead decides the size of what is done for them
    "_is_lost": 1,  # whether the weights move at all
}
DENSE = ALWAYS | {"_share_above": 1}  # whether to go on with all latents or with the active ones
SPARSE = DENSE | {
    "_above": 3
}  # for each chunk: is any not a number, which groups have an active latent, which are active
CHOOSE_A_NUMBER = ["topk", "multi-topk", "batch_topk", "matryoshka"]


@pytest.mark.parametrize("dead_latents", ["none", "auxk", "ghost"])
@pytest.mark.parametrize("family", CHOOSE_A_NUMBER)
def test_where_the_number_of_active_latents_is_known_a_step_reads_twice(
    family: str, dead_latents: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reads_of_a_step(monkeypatch, **FAMILIES[family], dead_latents=dead_latents) == ALWAYS


@pytest.mark.parametrize(("dense_from", "expected"), [(0.0, DENSE), (1.0, SPARSE)], ids=["dense", "sparse"])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in CHOOSE_A_NUMBER])
def test_where_it_is_not_the_step_asks_for_it(
    family: str, dense_from: float, expected: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_image.sae.code._DENSE_FROM", dense_from)
    assert reads_of_a_step(monkeypatch, **FAMILIES[family]) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"measure": True},
        {"grad_clip": 1.0},
        {"optimizer": "muon"},
        {"weights_dtype": "float8_e4m3"},
        {"encoder_dtype": "float16"},
        {"encoder_dtype": "bfloat16"},
        {"gradient_statistics_every_steps": 1},
        {"micro_batch_size": 16},
        {"skip_connection": True},
        {"family": "batch_topk", "encoder_dtype": "float16"},
    ],
    ids=str,
)
def test_no_option_adds_a_read(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert reads_of_a_step(monkeypatch, **changes) == ALWAYS


def test_nor_does_holding_l0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker_image.sae.code._DENSE_FROM", 0.0)
    assert reads_of_a_step(monkeypatch, family="standard", target_l0=4.0, steps=1) == DENSE


def test_without_patience_for_lost_steps_nothing_is_asked_about_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reads_of_a_step(monkeypatch, nan_patience=0) == {"_dead_S": 1}
