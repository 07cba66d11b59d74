"""What is due by the clock."""

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.store.backup import backup_name, check
from orchestrator.upkeep import Upkeep
from tests.unit.orchestrator.jobs import container_job

NOW = datetime.now(UTC)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "saeforge.db")
    await opened.submit(container_job())
    yield opened
    await opened.close()


def upkeep(store: Store, home: Path, **changes: Any) -> Upkeep:
    return Upkeep(store=store, settings=Settings(home=home, **changes))


async def test_without_a_backup_one_is_due_and_with_one_only_after_the_time_set(store: Store, tmp_path: Path) -> None:
    keeping = upkeep(store, tmp_path, backup_every_h=24)
    await keeping.look(NOW)
    [first] = await keeping.backups()
    assert check(first.path) == []
    await keeping.look(NOW + timedelta(hours=23))
    assert await keeping.backups() == [first]
    await keeping.look(NOW + timedelta(hours=25))
    assert len(await keeping.backups()) == 2


async def test_the_newest_are_kept(store: Store, tmp_path: Path) -> None:
    keeping = upkeep(store, tmp_path, backup_keep=2)
    made = [await keeping.back_up() for _ in range(4)]
    assert [item.path for item in await keeping.backups()] == [made[3].path, made[2].path]


async def test_none_is_made_when_none_is_wanted(store: Store, tmp_path: Path) -> None:
    keeping = upkeep(store, tmp_path, backup_every_h=0)
    await keeping.look(NOW)
    assert await keeping.backups() == []


async def test_a_backup_that_fails_is_told_and_due_again(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeping = upkeep(store, tmp_path)
    (tmp_path / "backups").write_text("in the way")
    with caplog.at_level(logging.ERROR):
        await keeping.look(NOW)
    assert "upkeep failed" in caplog.text
    (tmp_path / "backups").unlink()
    await keeping.look(NOW)
    assert len(await keeping.backups()) == 1


async def test_a_backup_of_a_time_to_come_does_not_keep_others_from_being_made(store: Store, tmp_path: Path) -> None:
    keeping = upkeep(store, tmp_path, backup_every_h=24)
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups" / backup_name(NOW + timedelta(days=1000))).touch()
    await keeping.look(NOW)
    assert len(await keeping.backups()) == 2


async def test_what_a_restore_replaced_long_ago_goes_even_where_nothing_is_archived(
    store: Store, tmp_path: Path
) -> None:
    keeping = upkeep(store, tmp_path, archive_after_days=0, backup_every_h=0)
    (tmp_path / "backups").mkdir()
    replaced = tmp_path / "backups" / "replaced-20200101T000000.000000Z.db"
    replaced.touch()
    await keeping.look(NOW)
    assert not replaced.exists()
