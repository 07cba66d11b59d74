"""Batches from a real (tiny) model: cached, streamed, shared, resumed, fetched ahead: always the same ones."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worker_image.errors import UserError
from worker_image.lm.activations import Activations, Feeding, Reading, batches_of
from worker_image.lm.batches import Batches, Json
from worker_image.lm.cache import ActivationCache
from worker_image.lm.cached import CachedBatches
from worker_image.lm.dataset import open_dataset
from worker_image.lm.harvest import Harvester
from worker_image.lm.model import find_model
from worker_image.lm.streamed import StreamedBatches
from worker_image.lm.tokens import START

READING = Reading(context_length=16, sequences_per_pass=4)
FEEDING = Feeding(batch_size=32, total_tokens=40 * 32, limit=400, window=128)
Open = Callable[..., Activations]


@pytest.fixture
def opened(bert: Path, corpus: Path) -> Open:
    def make(*hookpoints: str, reading: Reading = READING, held_out_seed: int = 0) -> Activations:
        return Activations(
            find_model(str(bert), hookpoints or ("layers.1",), network=False),
            open_dataset(str(corpus), "text"),
            reading,
            device=torch.device("cpu"),
            held_out_tokens=50,
            least_training=32,
            held_out_seed=held_out_seed,
        )

    return make


@pytest.fixture
def cache(tmp_path: Path) -> ActivationCache:
    return ActivationCache(tmp_path / "cache", shard_rows=100)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sequences of every forward pass, as they are made."""
    seen: list[int] = []
    run = Harvester._activations

    def counted(self: Harvester, batch: list[Any]) -> list[Tensor]:
        seen.append(len(batch))
        return run(self, batch)

    monkeypatch.setattr(Harvester, "_activations", counted)
    return seen


def take(batches: Batches, n: int) -> list[Tensor]:
    found = []
    for _ in range(n):
        if not batches.ready:
            for _ in batches.prepare():
                pass
        found.append(batches.next_batch().clone())
    return found


def assert_same(ones: list[Tensor], others: list[Tensor]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert torch.equal(one, other)


def in_order(activations: Activations, n: int) -> Tensor:
    """Each sequence read alone: the first ``n`` rows."""
    sequences, _ = activations.training().take(START, n, wrap=False)
    return torch.cat([block for sequence in sequences for block in activations.harvester().harvest([sequence])])


def rows_of(cache: ActivationCache, opened: Open) -> Tensor:
    """The 400 rows that ``FEEDING`` wants."""
    return opened().cached_part(cache, 400).gather(np.arange(400))


@pytest.fixture(params=["cached", "streamed"])
def batches(request: pytest.FixtureRequest, opened: Open, tmp_path: Path) -> Iterator[Callable[..., Batches]]:
    made: list[Batches] = []

    def make(position: Json | None = None, **changes: Any) -> Batches:
        # A cache each: what a killed job left is gone.
        own = ActivationCache(tmp_path / f"cache{len(made)}", shard_rows=100) if request.param == "cached" else None
        made.append(batches_of(opened(), replace(FEEDING, **changes), own, position=position))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("already", [1, 13, 39])
@pytest.mark.parametrize("limit", [400, 120])
def test_any_batch_is_the_same_after_a_resume(batches: Callable[..., Batches], already: int, limit: int) -> None:
    whole = take(batches(limit=limit), 40)
    first = batches(limit=limit)
    take(first, already)
    assert_same(take(batches(first.position, limit=limit), 40 - already), whole[already:])


def test_fetching_ahead_changes_no_batch(batches: Callable[..., Batches]) -> None:
    assert_same(take(batches(prefetch=True), 40), take(batches(), 40))


def test_the_position_is_of_what_was_taken_and_not_of_what_was_fetched_ahead(batches: Callable[..., Batches]) -> None:
    one, other = batches(), batches(prefetch=True)
    take(one, 7)
    take(other, 7)
    assert one.position == other.position


def test_all_that_is_harvested_was_foretold(batches: Callable[..., Batches]) -> None:
    made = batches()
    foretold = made.to_harvest
    take(made, 40)
    assert made.harvested == made.to_harvest == foretold


def test_the_share_of_time_that_was_waited_is_a_share(batches: Callable[..., Batches]) -> None:
    made = batches(prefetch=True)
    assert made.stall_share == 0
    take(made, 40)
    assert 0 < made.stall_share < 1


def test_held_out_activations_are_those_of_their_sequences(batches: Callable[..., Batches], opened: Open) -> None:
    made, activations = batches(), opened()
    take(made, 1)
    found = made.held_out()
    assert found.shape == (50, 16)
    one = next(activations.harvester().harvest(activations.held_out.sequences[:1]))[0]
    assert (found - one).norm(dim=1).min() < 1e-5


def test_an_epoch_of_the_cache_visits_every_row_once(opened: Open, cache: ActivationCache) -> None:
    activations = opened()
    made = batches_of(activations, replace(FEEDING, limit=320), cache)
    served = torch.cat(take(made, 10))
    wanted = in_order(opened(), 320)
    nearest = torch.cdist(served, wanted).argmin(1)
    assert sorted(nearest.tolist()) == list(range(320))
    torch.testing.assert_close(served, wanted[nearest], atol=1e-5, rtol=1e-4)


def test_several_hookpoints_are_side_by_side_for_the_same_tokens(opened: Open, cache: ActivationCache) -> None:
    both = batches_of(opened("layers.1", "layers.0"), FEEDING, cache)
    assert both.columns() == {"layers.1": slice(0, 16), "layers.0": slice(16, 32)}
    alone = batches_of(opened("layers.0"), FEEDING, cache)
    assert_same([batch[:, 16:] for batch in take(both, 5)], take(alone, 5))


def test_a_second_job_harvests_nothing_and_never_loads_the_model(
    opened: Open, cache: ActivationCache, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = take(batches_of(opened(), FEEDING, cache), 20)
    passes.clear()
    monkeypatch.setattr("worker_image.lm.activations.load_model", None)
    second = batches_of(opened(), FEEDING, cache)
    assert second.to_harvest == 0
    assert_same(take(second, 20), first)
    assert passes == []


def test_a_place_written_another_way_is_the_same_place(opened: Open, cache: ActivationCache, passes: list[int]) -> None:
    take(batches_of(opened("layers.1"), FEEDING, cache), 1)
    passes.clear()
    take(batches_of(opened("encoder.layer.1:out"), FEEDING, cache), 1)
    assert passes == []


def test_a_longer_job_harvests_only_what_a_shorter_one_did_not(opened: Open, cache: ActivationCache) -> None:
    take(batches_of(opened(), replace(FEEDING, limit=150), cache), 1)
    longer = batches_of(opened(), FEEDING, cache)
    assert longer.to_harvest == 250
    take(longer, 1)
    part = opened().cached_part(cache, 400)
    torch.testing.assert_close(part.gather(np.arange(400)), in_order(opened(), 400), atol=1e-5, rtol=1e-4)


def test_a_hookpoint_that_has_less_catches_up_before_both_go_on_together(
    opened: Open, cache: ActivationCache, passes: list[int]
) -> None:
    take(batches_of(opened("layers.1"), replace(FEEDING, limit=150), cache), 1)
    together = batches_of(opened("layers.0", "layers.1"), FEEDING, cache)
    take(together, 1)
    part = opened("layers.0", "layers.1").cached_part(cache, 400)
    wanted = in_order(opened("layers.0", "layers.1"), 400)
    torch.testing.assert_close(part.gather(np.arange(400)), wanted, atol=1e-5, rtol=1e-4)


def test_the_dataset_may_end_before_all_is_there(opened: Open, cache: ActivationCache) -> None:
    feeding = replace(FEEDING, limit=None, total_tokens=10**6)
    made = batches_of(opened(), feeding, cache)
    take(made, 1)
    assert made.distinct_tokens is not None
    assert made.distinct_tokens == len(in_order(opened(), 10**6))
    assert batches_of(opened(), feeding, cache).to_harvest == 0


def test_an_interrupted_harvest_is_not_begun_again(
    opened: Open, cache: ActivationCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_image.lm.fill._CHUNK_TOKENS", 64)
    monkeypatch.setattr("worker_image.lm.fill._PASSES", 1)
    first = batches_of(opened(), FEEDING, cache)
    harvesting = first.prepare()
    while first.harvested < 250:
        next(harvesting)
    first.close()
    second = batches_of(opened(), FEEDING, cache)
    assert 0 < second.to_harvest <= 400 - (250 - 50 - 64)
    take(second, 1)
    uninterrupted = ActivationCache(tmp_path / "uninterrupted", shard_rows=100)
    take(batches_of(opened(), FEEDING, uninterrupted), 1)
    assert torch.equal(rows_of(cache, opened), rows_of(uninterrupted, opened))


def test_all_that_is_left_to_harvest_is_told_while_it_is(opened: Open, cache: ActivationCache) -> None:
    made = batches_of(opened(), FEEDING, cache)
    assert {made.to_harvest for _ in made.prepare()} == {450}


@pytest.mark.parametrize(
    "reading",
    [
        replace(READING, context_length=8),
        replace(READING, packing=True),
        replace(READING, bos="never"),
        replace(READING, drop_first=True),
        replace(READING, dtype="bfloat16"),
    ],
)
def test_another_way_of_reading_is_another_entry(opened: Open, cache: ActivationCache, reading: Reading) -> None:
    take(batches_of(opened(), FEEDING, cache), 1)
    assert batches_of(opened(reading=reading), FEEDING, cache).to_harvest == 450


def test_other_held_out_documents_are_another_entry(opened: Open, cache: ActivationCache) -> None:
    take(batches_of(opened(), FEEDING, cache), 1)
    assert batches_of(opened(held_out_seed=1), FEEDING, cache).to_harvest == 450


def test_activations_are_kept_in_the_precision_asked_for(opened: Open, cache: ActivationCache) -> None:
    reading = replace(READING, dtype="bfloat16")
    [batch] = take(batches_of(opened(reading=reading), FEEDING, cache), 1)
    [full] = take(batches_of(opened(), FEEDING, cache), 1)
    assert batch.dtype == torch.bfloat16
    torch.testing.assert_close(batch.float(), full, atol=0.02, rtol=0.02)


def test_what_does_not_fit_into_the_cache_is_streamed_unless_the_cache_is_required(
    opened: Open, tmp_path: Path
) -> None:
    small = ActivationCache(tmp_path / "small", 10_000)
    assert isinstance(batches_of(opened(), FEEDING, small), StreamedBatches)
    assert isinstance(batches_of(opened(), FEEDING, small, required=True), CachedBatches)


def test_what_is_in_the_cache_is_read_even_where_nothing_more_fits(opened: Open, cache: ActivationCache) -> None:
    take(batches_of(opened(), FEEDING, cache), 1)
    full = ActivationCache(cache.folder, 1, shard_rows=100)
    assert isinstance(batches_of(opened(), FEEDING, full), CachedBatches)


def test_a_checkpoint_of_other_activations_is_refused(opened: Open, cache: ActivationCache) -> None:
    position = batches_of(opened(), FEEDING, cache).position
    with pytest.raises(UserError, match="not those of the checkpoint"):
        batches_of(opened("layers.0"), FEEDING, cache, position=position)


def test_a_failure_on_the_harvesting_thread_is_raised_where_it_is_waited_for(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = batches_of(opened(), replace(FEEDING, prefetch=True, limit=None), None)
    monkeypatch.setattr("worker_image.lm.streamed.ShuffledBuffer.add", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        take(made, 40)
