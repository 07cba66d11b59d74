"""The directory of the activation cache, seen without what fills it."""

import fcntl
import logging
import os
from pathlib import Path

import pytest

from worker_image.contract.cachedir import CacheDir


@pytest.fixture
def cache(tmp_path: Path) -> CacheDir:
    """Of "old", "new" and "between", each of so many bytes more than its rank in use."""
    for name, size, used_at in (("old", 10, 1), ("new", 30, 3), ("between", 20, 2)):
        folder = tmp_path / "entries" / name
        folder.mkdir(parents=True)
        (folder / "shard-000000.safetensors").write_bytes(bytes(size))
        (folder / "used").touch()
        os.utime(folder / "used", (used_at, used_at))
    (tmp_path / "locks").mkdir()
    return CacheDir(tmp_path)


def names(cache: CacheDir) -> list[str]:
    return [entry.name for entry in cache.look()]


def test_entries_are_told_with_their_sizes_used_longest_ago_first(cache: CacheDir) -> None:
    assert [(entry.name, entry.size_bytes, entry.used_at) for entry in cache.look()] == [
        ("old", 10, 1.0),
        ("between", 20, 2.0),
        ("new", 30, 3.0),
    ]
    assert cache.size_bytes == 60


def test_a_cache_that_was_never_filled_holds_nothing(tmp_path: Path) -> None:
    assert CacheDir(tmp_path / "cache").look() == []


def test_what_nobody_uses_is_deleted_and_tells_what_that_gave_back(cache: CacheDir) -> None:
    old = cache.look()[0]
    assert not cache.is_used(old)
    assert cache.evict(old) == 10
    assert names(cache) == ["between", "new"]


@pytest.mark.parametrize("how", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_what_somebody_uses_is_not_deleted_until_they_let_it_go(cache: CacheDir, how: int) -> None:
    old = cache.look()[0]
    held = cache.lock("old", "use", how)
    assert cache.is_used(old)
    assert cache.evict(old) == 0
    assert (cache.entries / "old" / "shard-000000.safetensors").exists()
    os.close(held)
    assert cache.evict(old) == 10


def test_looking_whether_an_entry_is_used_leaves_it_to_others(cache: CacheDir) -> None:
    cache.is_used(cache.look()[0])
    os.close(cache.lock("old", "use", fcntl.LOCK_EX | fcntl.LOCK_NB))


def test_a_deletion_that_was_cut_short_is_finished(cache: CacheDir) -> None:
    (cache.entries / "old").rename(cache.entries / "old.evicted")
    [cut_short] = [entry for entry in cache.look() if entry.name == "old.evicted"]
    assert cache.evict(cut_short) == 10
    assert names(cache) == ["between", "new"]


@pytest.mark.parametrize("place", ["entries", "locks", "entries/old", "locks/old.use"])
def test_a_link_that_a_job_put_there_leads_nowhere(cache: CacheDir, tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "old").mkdir(parents=True)
    (elsewhere / "old" / "precious").write_bytes(b"kept")
    link = cache.path / place
    seen = cache.look()
    if link.exists():
        link.rename(tmp_path / "aside")
    link.symlink_to(elsewhere / "old" if place == "entries/old" else elsewhere)
    freed = [cache.evict(entry) for entry in (*seen, *cache.look()) if entry.name == "old"]
    assert set(freed) <= {0, 10}
    assert [path.relative_to(elsewhere).as_posix() for path in sorted(elsewhere.rglob("*"))] == ["old", "old/precious"]


def test_a_cache_whose_locks_cannot_be_asked_is_left_alone_and_told(
    cache: CacheDir, caplog: pytest.LogCaptureFixture
) -> None:
    old = cache.look()[0]
    cache.locks.rmdir()
    with caplog.at_level(logging.WARNING):
        assert cache.is_used(old)
        assert cache.evict(old) == 0
    assert "old of the activation cache is in use is not known" in caplog.text
    assert names(cache) == ["old", "between", "new"]
