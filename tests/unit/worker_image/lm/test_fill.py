"""Filling: nobody waits longer than need be, and what shares a pass with what follows from the row alone."""

from collections.abc import Generator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tests.unit.worker_image.lm.test_cache import RECIPE
from worker_image.lm.cache import ActivationCache, Entry
from worker_image.lm.fill import Gained, fill
from worker_image.lm.harvest import Harvester
from worker_image.lm.hookpoints import Hookpoint
from worker_image.lm.tokens import HeldOut, Sequence

PLACE = Hookpoint("layers.0", "layers.0", "out")
ALL = 400


class TellsPasses(Harvester):
    """A kept token's "activation": its id, and the sum of all ids that share its pass."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Identity(), [PLACE], pad_id=0, batch_tokens=24, device=torch.device("cpu"))
        self.passes_run = 0

    def only(self, hookpoints: Any) -> Harvester:
        return self

    def _activations(self, batch: list[Sequence]) -> list[Tensor]:
        self.passes_run += 1
        together = float(sum(int(sequence.ids.sum()) for sequence in batch))
        return [torch.tensor([[float(sequence.ids[at]), together] for sequence in batch for at in sequence.kept])]


def sequences() -> list[Sequence]:
    """400 kept tokens, in sequences of one to eight; ids are 0, 1, 2, ..."""
    made, next_id = [], 0
    while next_id < ALL:
        n = min(1 + next_id * 7 % 8, ALL - next_id)
        made.append(Sequence(np.arange(next_id, next_id + n, dtype=np.int32), np.arange(n, dtype=np.int32)))
        next_id += n
    return made


STREAM = HeldOut(frozenset(), sequences())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker_image.lm.fill._CHUNK_TOKENS", 64)
    monkeypatch.setattr("worker_image.lm.fill._PASSES", 1)
    monkeypatch.setattr("worker_image.lm.fill._WAIT_S", 0.0)


def cache_at(folder: Path) -> ActivationCache:
    return ActivationCache(folder, shard_rows=50)


def filling(entry: Entry, rows: int, harvester: Harvester | None = None) -> Generator[Gained]:
    made = harvester or TellsPasses()
    return fill({PLACE: entry}, STREAM, lambda: made, rows)


def run(entry: Entry, rows: int) -> None:
    for _ in filling(entry, rows):
        pass


@pytest.fixture
def whole(tmp_path: Path) -> Tensor:
    """What an entry holds that was filled at one go."""
    entry = cache_at(tmp_path / "whole").open(RECIPE)
    run(entry, ALL)
    return entry.gather(np.arange(ALL))


def test_every_row_is_that_of_its_token(whole: Tensor) -> None:
    assert whole[:, 0].tolist() == list(range(ALL))


@pytest.mark.parametrize("ends", [(10, ALL), (64, 65, ALL), (150, 151, 300, ALL), (399, ALL), range(7, ALL + 1, 31)])
def test_whoever_wanted_fewer_rows_before_every_bit_is_the_same(tmp_path: Path, whole: Tensor, ends: list[int]) -> None:
    cache = cache_at(tmp_path / "grown")
    for end in (*ends, ALL):
        entry = cache.open(RECIPE)
        run(entry, end)
        assert entry.rows == end
    assert torch.equal(cache.open(RECIPE).gather(np.arange(ALL)), whole)


@pytest.mark.parametrize("gains", [1, 5, 9, 18])
def test_wherever_it_is_interrupted_every_bit_is_the_same(tmp_path: Path, whole: Tensor, gains: int) -> None:
    entry = cache_at(tmp_path / "interrupted").open(RECIPE)
    stopped = filling(entry, ALL)
    assert len(list(islice(stopped, gains))) == gains
    stopped.close()
    run(entry, ALL)
    assert torch.equal(entry.gather(np.arange(ALL)), whole)


@pytest.mark.parametrize("shards", range(8))
def test_after_however_many_shards_it_is_killed_every_bit_is_the_same(
    tmp_path: Path, whole: Tensor, shards: int
) -> None:
    cache = cache_at(tmp_path / "killed")
    entry = cache.open(RECIPE)
    run(entry, ALL - 1)
    for shard in sorted(tmp_path.glob("killed/entries/*/shard-*"))[shards:]:
        shard.unlink()
    left = cache.open(RECIPE)
    assert left.rows == 50 * shards
    run(left, ALL)
    assert torch.equal(left.gather(np.arange(ALL)), whole)


def test_a_hookpoint_that_has_less_is_harvested_in_the_same_passes(tmp_path: Path, whole: Tensor) -> None:
    cache = cache_at(tmp_path / "two")
    run(cache.open(RECIPE), 150)
    other = Hookpoint("layers.1", "layers.1", "out")
    entries = {PLACE: cache.open(RECIPE), other: cache.open(replace(RECIPE, hookpoint="other"))}

    class Both(TellsPasses):
        wanted: tuple[Hookpoint, ...] = ()

        def only(self, hookpoints: Any) -> Harvester:
            self.wanted = tuple(hookpoints)
            return self

        def _activations(self, batch: list[Sequence]) -> list[Tensor]:
            return super()._activations(batch) * len(self.wanted)

    both = Both()
    for _ in fill(entries, STREAM, lambda: both, ALL):
        pass
    for entry in entries.values():
        assert torch.equal(entry.gather(np.arange(ALL)), whole)


def test_only_passes_that_hold_wanted_rows_are_run(tmp_path: Path) -> None:
    few, many = TellsPasses(), TellsPasses()
    for _ in filling(cache_at(tmp_path / "few").open(RECIPE), 1, few):
        pass
    for _ in filling(cache_at(tmp_path / "many").open(RECIPE), 64, many):
        pass
    assert few.passes_run == 1 < many.passes_run


def test_gains_add_up_to_the_rows_wanted(tmp_path: Path) -> None:
    entry = cache_at(tmp_path).open(RECIPE)
    assert sum(gained.rows for gained in filling(entry, 150)) == 150
    assert sum(gained.rows for gained in filling(entry, 230)) == 80


def test_who_wants_less_goes_as_soon_as_another_has_written_that_much(tmp_path: Path) -> None:
    cache, idle = cache_at(tmp_path), TellsPasses()
    long = filling(cache.open(RECIPE), ALL)
    next(long)
    reader = cache.open(RECIPE)
    short = filling(reader, 80, idle)
    assert next(short) == Gained(0, here=False)
    gained = []
    for one in short:
        gained.append(one)
        next(long)
    assert sum(one.rows for one in gained) == 80
    assert not any(one.here for one in gained)
    assert idle.passes_run == 0
    assert len(list(long)) > 0
    assert torch.equal(reader.gather(np.arange(80))[:, 0], torch.arange(80.0))


def test_when_the_other_ends_it_is_gone_on_where_that_stopped(tmp_path: Path, whole: Tensor) -> None:
    cache = cache_at(tmp_path / "shared")
    first = filling(cache.open(RECIPE), 100)
    next(first)
    reader = cache.open(RECIPE)
    second = filling(reader, 300)
    assert next(second) == Gained(0, here=False)
    for _ in first:
        pass
    gained = list(second)
    assert sum(one.rows for one in gained if not one.here) == 100
    assert sum(one.rows for one in gained if one.here) == 200
    assert torch.equal(reader.gather(np.arange(300)), whole[:300])


def test_waiting_for_another_can_be_given_up(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    first = filling(cache.open(RECIPE), 100)
    next(first)
    second = filling(cache.open(RECIPE), 300)
    next(second)
    second.close()
    assert sum(one.rows for one in first) > 0


def test_an_older_entry_goes_on_behind_its_last_row(tmp_path: Path) -> None:
    """Its shards do not tell which row their position is of."""
    cache = cache_at(tmp_path)
    entry = cache.open(RECIPE)
    run(entry, 128)
    with safe_open(entry._shard(2), "pt") as file:
        noted = {name: value for name, value in file.metadata().items() if name != "next_row"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, entry._shard(2), metadata=noted)
    older = cache.open(RECIPE)
    run(older, ALL)
    assert older.gather(np.arange(ALL))[:, 0].tolist() == list(range(ALL))
