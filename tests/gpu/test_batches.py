"""Batches that are copied to a GPU while it computes are those of the cache."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.worker_image.lm.test_cache import RECIPE
from worker_image.lm.cache import ActivationCache, Entry, Waypoint
from worker_image.lm.cached import CachedBatches, CachedPart
from worker_image.lm.hookpoints import Hookpoint
from worker_image.lm.tokens import HeldOut

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]

ROWS, WIDTH, BATCH = 16_384, 256, 1024
PLACE = Hookpoint("layers.0", "layers.0", "out")


@pytest.fixture
def batches(tmp_path: Path) -> Callable[..., CachedBatches]:
    cache = ActivationCache(tmp_path)

    def filled(part: str) -> Entry:
        entry = cache.open(replace(RECIPE, part=part))
        if not entry.rows:
            acts_ND = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
            with entry.writing() as writer:
                writer.append(acts_ND, Waypoint(ROWS), ended=True)
        return entry

    def unused() -> object:
        raise AssertionError("nothing is missing")

    def make(*, pinned: bool) -> CachedBatches:
        training, held_out = (
            CachedPart({PLACE: filled(part)}, HeldOut(frozenset(), []), ROWS) for part in ("training", "held_out")
        )
        made = CachedBatches(
            training, held_out, unused, batch_size=BATCH, window=ROWS, seed=0, prefetch=pinned, pinned=pinned
        )  # type: ignore[arg-type]
        assert list(made.prepare()) == []
        return made

    return make


def test_batches_let_go_before_they_are_copied_arrive_whole(batches: Callable[..., CachedBatches]) -> None:
    plain, pinned = batches(pinned=False), batches(pinned=True)
    torch.cuda._sleep(500_000_000)  # cycles, in which the copies queue up and the batches are let go
    arrived = []
    for _ in range(64):
        batch_BW = pinned.next_batch()
        assert batch_BW.is_pinned()
        arrived.append(batch_BW.to("cuda", non_blocking=True).to(torch.float32))
        del batch_BW
    for found_BW in arrived:
        assert torch.equal(found_BW.cpu(), plain.next_batch().float())
    plain.close()
    pinned.close()
