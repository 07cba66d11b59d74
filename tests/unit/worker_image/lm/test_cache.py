"""The cache on disk: what is written is what is read, whoever writes at the same time, dies, or wants the room."""

import fcntl
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from worker_image.errors import UserError
from worker_image.lm.cache import ActivationCache, CacheFull, Entry, Recipe, Waypoint
from worker_image.lm.documents import Mark
from worker_image.lm.tokens import Position

RECIPE = Recipe(
    model="m",
    dataset="d",
    text_field="text",
    part="training",
    held_out="h",
    context_length=128,
    packing=False,
    bos="auto",
    drop_first=False,
    hookpoint="layers.0",
    model_dtype="float32",
    dtype="float32",
)
SHARD = 8


def rows(begin: int, end: int, width: int = 3) -> Tensor:
    """Row n holds n, n + 0.1, ..."""
    return torch.arange(begin, end, dtype=torch.float32)[:, None] + torch.arange(width) / 10


def waypoint(taken: int) -> Waypoint:
    return Waypoint(taken, Position(mark=Mark(document=taken), taken=taken))


@pytest.fixture
def cache(tmp_path: Path) -> ActivationCache:
    return ActivationCache(tmp_path / "cache", shard_rows=SHARD)


def write(entry: Entry, end: int, *, ended: bool = False, step: int = 4) -> None:
    """Append rows up to ``end``, ``step`` at a time."""
    with entry.writing() as writer:
        while writer.rows < end:
            after = min(writer.rows + step, end)
            writer.append(rows(writer.rows, after), waypoint(after), ended=ended and after == end)


@pytest.mark.parametrize("n", [2, 7, 8, 20])
def test_what_was_written_is_read(cache: ActivationCache, n: int) -> None:
    write(cache.open(RECIPE), n)
    entry = cache.open(RECIPE)
    assert (entry.rows, entry.width, entry.waypoint) == (n, 3, waypoint(n))
    wanted = np.flatnonzero(np.random.default_rng(0).random(n) < 0.7)
    assert torch.equal(entry.gather(wanted), rows(0, n)[torch.from_numpy(wanted)])


def test_an_entry_grows_where_it_stopped(cache: ActivationCache) -> None:
    entry = cache.open(RECIPE)
    for end in (3, 5, 8, 9, 30):
        write(entry, end)
        assert entry.rows == end
        assert torch.equal(entry.gather(np.arange(end)), rows(0, end))


def test_who_has_read_the_beginning_of_a_shard_is_not_disturbed_when_it_grows(cache: ActivationCache) -> None:
    write(cache.open(RECIPE), 3)
    reader = cache.open(RECIPE)
    reader.gather(np.arange(3))
    write(cache.open(RECIPE), 8)
    assert torch.equal(reader.gather(np.arange(3)), rows(0, 3))
    reader.refresh()
    assert reader.rows == 8


def test_the_end_of_the_dataset_is_remembered(cache: ActivationCache) -> None:
    write(cache.open(RECIPE), 8)
    assert not cache.open(RECIPE).ended
    with cache.open(RECIPE).writing() as writer:
        writer.append(rows(8, 8), Waypoint(8, Position(epoch=1)), ended=True)
    assert cache.open(RECIPE).ended
    assert cache.open(RECIPE).rows == 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_activations_keep_their_type(cache: ActivationCache, dtype: torch.dtype) -> None:
    with cache.open(RECIPE).writing() as writer:
        writer.append(rows(0, 8).to(dtype), waypoint(8), ended=False)
    assert torch.equal(cache.open(RECIPE).gather(np.arange(8)), rows(0, 8).to(dtype))


@pytest.mark.parametrize("change", [{"dataset": "other"}, {"context_length": 64}, {"hookpoint": "layers.1"}])
def test_whatever_determines_the_activations_has_an_entry_of_its_own(
    cache: ActivationCache, change: dict[str, object]
) -> None:
    write(cache.open(RECIPE), 8)
    assert cache.open(replace(RECIPE, **change)).rows == 0  # type: ignore[arg-type]


def test_a_writer_that_fails_leaves_what_it_had_in_whole(cache: ActivationCache) -> None:
    def fail() -> None:
        with cache.open(RECIPE).writing() as writer:
            writer.append(rows(0, 4), waypoint(4), ended=False)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert cache.open(RECIPE).waypoint == waypoint(4)


def test_a_writer_killed_in_the_middle_of_a_shard_leaves_the_whole_ones(tmp_path: Path) -> None:
    script = f"""
import os, signal
from tests.unit.worker_image.lm.test_cache import *
cache = ActivationCache(Path({str(tmp_path / "cache")!r}), shard_rows=SHARD)
with cache.open(RECIPE).writing() as writer:
    for begin in (0, 4, 8):
        writer.append(rows(begin, begin + 4), waypoint(begin + 4), ended=False)
    writer.settle()
    writer._pending.append(rows(12, 13))
    (cache.folder / "entries" / RECIPE.key / "shard-000001.draft").write_bytes(b"half a sh")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    died = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert died.returncode == -9, died.stderr
    cache = ActivationCache(tmp_path / "cache", shard_rows=SHARD)
    entry = cache.open(RECIPE)
    assert entry.rows == SHARD
    write(entry, 20)
    assert torch.equal(entry.gather(np.arange(20)), rows(0, 20))
    assert not list(tmp_path.rglob("*.draft"))


def test_one_writes_at_a_time(cache: ActivationCache) -> None:
    with cache.open(RECIPE).writing() as writer:
        writer.append(rows(0, 4), waypoint(4), ended=False)
        with pytest.raises(BlockingIOError), cache.open(RECIPE).writing():
            raise AssertionError
    with cache.open(RECIPE).writing() as writer:
        assert writer.rows == 4


def test_rows_appended_at_once_may_fill_several_shards_that_tell_where_those_began(
    cache: ActivationCache,
) -> None:
    entry = cache.open(RECIPE)
    with entry.writing() as writer:
        writer.append(rows(0, 4), waypoint(4), ended=False)
        writer.append(rows(4, 21), waypoint(21), ended=False)
    assert torch.equal(entry.gather(np.arange(21)), rows(0, 21))
    assert entry.waypoint == waypoint(21)
    entry._shard(2).unlink()
    left = cache.open(RECIPE)
    assert (left.rows, left.waypoint) == (16, waypoint(4))


@pytest.fixture
def full(tmp_path: Path) -> ActivationCache:
    """A cache without room for another shard, in which "old" was used before "new"; both are closed."""
    unbounded = ActivationCache(tmp_path / "cache", shard_rows=SHARD)
    for nth, name in enumerate(("old", "new")):
        entry = unbounded.open(replace(RECIPE, dataset=name))
        write(entry, 8)
        entry.close()
        os.utime(tmp_path / "cache" / "entries" / entry.recipe.key / "used", (nth, nth))
    return ActivationCache(tmp_path / "cache", unbounded.size_bytes + 50, shard_rows=SHARD)


def held(cache: ActivationCache) -> set[str]:
    return {name for name in ("old", "new", "next") if cache.open(replace(RECIPE, dataset=name)).rows}


def test_what_was_used_longest_ago_makes_room(full: ActivationCache) -> None:
    write(full.open(replace(RECIPE, dataset="next")), 8)
    assert held(full) == {"new", "next"}


def test_what_is_in_use_is_never_evicted(full: ActivationCache) -> None:
    reader = full.open(replace(RECIPE, dataset="old"))
    write(full.open(replace(RECIPE, dataset="next")), 8)
    assert held(full) == {"old", "next"}
    assert torch.equal(reader.gather(np.arange(8)), rows(0, 8))


def test_when_nothing_can_go_the_writer_is_told_what_to_change(full: ActivationCache) -> None:
    readers = [full.open(replace(RECIPE, dataset=name)) for name in ("old", "new")]
    with pytest.raises(CacheFull, match="no room") as caught:
        write(full.open(replace(RECIPE, dataset="next")), 8)
    assert caught.value.field == "cache"
    assert not full.fits(1000)
    for reader in readers:
        reader.close()
    assert full.fits(1000)


def test_two_who_write_never_count_on_the_same_room(full: ActivationCache) -> None:
    """Whoever comes second waits until what the first made room for is there."""
    lock = full.folder / "locks" / "cache.room"
    with full.room(8), lock.open() as second, pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock.open() as second:
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_room_that_is_not_found_is_not_kept_from_others(full: ActivationCache) -> None:
    with pytest.raises(CacheFull), full.room(1 << 40):
        pass
    with full.room(8):
        pass


def test_nothing_follows_rows_that_found_no_room(full: ActivationCache) -> None:
    readers = [full.open(replace(RECIPE, dataset=name)) for name in ("old", "new")]
    entry = full.open(replace(RECIPE, dataset="next"))
    with pytest.raises(CacheFull):
        write(entry, 24, step=SHARD)
    assert entry.rows == 0
    for reader in readers:
        reader.close()
    write(entry, 8)
    assert torch.equal(entry.gather(np.arange(8)), rows(0, 8))


def test_rows_that_an_interrupted_writer_cannot_keep_are_told_and_hide_no_interruption(
    full: ActivationCache, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("old", "new"):
        full.open(replace(RECIPE, dataset=name))
    entry = full.open(replace(RECIPE, dataset="next"))

    def interrupted() -> None:
        with entry.writing() as writer:
            writer.append(rows(0, 4), waypoint(4), ended=False)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "what was harvested last is not kept: the activation cache has no room" in caplog.text
    assert entry.rows == 0


def test_a_cache_kept_below_what_one_shard_takes_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(CacheFull):
        write(ActivationCache(tmp_path, 50, shard_rows=SHARD).open(RECIPE), 8)


def test_statistics_cover_exactly_the_rows_asked_for(cache: ActivationCache) -> None:
    write(cache.open(RECIPE), 30)
    found = cache.open(RECIPE).statistics(19)
    assert found.rows == 19
    torch.testing.assert_close(found.mean_D, rows(0, 19).double().mean(0))


def test_a_damaged_shard_is_named(cache: ActivationCache, tmp_path: Path) -> None:
    write(cache.open(RECIPE), 20)
    shard = next(tmp_path.rglob("shard-000000.safetensors"))
    shard.write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match=r"shard-000000\.safetensors is damaged") as caught:
        cache.open(RECIPE).gather(np.arange(20))
    assert caught.value.suggestion
    assert caught.value.suggestion.startswith("delete ")


def test_jobs_of_other_users_can_go_on_where_one_stopped(cache: ActivationCache) -> None:
    before = os.umask(0o022)
    try:
        entry = cache.open(RECIPE)
        write(entry, 12)
        entry.close()
        cache.open(RECIPE).close()
    finally:
        os.umask(before)
    made = [cache.folder, *cache.folder.rglob("*")]
    assert {oct(path.stat().st_mode & 0o777) for path in made if path.is_dir()} == {"0o777"}
    assert all(path.stat().st_mode & 0o004 for path in made)
    opened = [path for path in made if path.parent.name == "locks" or path.name == "used"]
    assert len(opened) >= 2
    assert {oct(path.stat().st_mode & 0o777) for path in opened} == {"0o666"}
