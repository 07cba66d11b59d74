"""Copies of the database: whole, checked, and of one moment."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.domain import EndReason, Job, JobStatus
from orchestrator.errors import InvalidInput
from orchestrator.store import Ended, JobFilter, Store
from orchestrator.store.backup import (
    DatabaseCorrupt,
    back_up,
    backup_name,
    backups,
    check,
    corrupt,
    leftovers,
    prune,
    restore,
    settle_as_in,
)
from tests.unit.orchestrator.jobs import container_job
from tests.waiting import until

ROOT = Path(__file__).parents[4]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """One with fifty jobs, in use by nobody."""

    async def fill() -> None:
        store = await Store.open(tmp_path / "saeforge.db")
        await asyncio.gather(*(store.submit(container_job(name=f"job {number}")) for number in range(50)))
        await store.close()

    asyncio.run(fill())
    return tmp_path / "saeforge.db"


def jobs_in(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [name for (name,) in connection.execute("SELECT id FROM jobs")]


def damage(database: Path) -> None:
    """Overwrite a page in the middle, as a bad disk does."""
    with database.open("r+b") as file:
        file.seek(database.stat().st_size // 2)
        file.write(os.urandom(8192))


async def test_a_backup_made_while_jobs_are_submitted_holds_those_that_were_there_and_no_half_of_any(
    tmp_path: Path,
) -> None:
    store = await Store.open(tmp_path / "saeforge.db")
    before = [await store.submit(container_job(tags=("a", "b"))) for _ in range(200)]
    stop = asyncio.Event()

    async def submit_for_ever() -> int:
        count = 0
        while not stop.is_set():
            await store.submit(container_job(tags=("a", "b")))
            count += 1
        return count

    writing = asyncio.create_task(submit_for_ever())
    made = await asyncio.to_thread(back_up, tmp_path / "saeforge.db", tmp_path / "backups" / "one.db")
    stop.set()
    assert await writing > 0
    await store.close()
    assert check(made.path) == []
    kept = jobs_in(made.path)
    assert {str(job.id) for job in before} <= set(kept)
    with closing(sqlite3.connect(made.path)) as connection:
        for table, each in (("job_tags", 2), ("events", 1)):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == each * len(kept)


def test_a_backup_is_one_file_that_its_owner_alone_can_read(database: Path, tmp_path: Path) -> None:
    made = back_up(database, tmp_path / "backups" / "one.db")
    assert [path.name for path in made.path.parent.iterdir()] == ["one.db"]
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert made.size_bytes == made.path.stat().st_size


def test_a_damaged_database_gives_no_backup_and_leaves_the_last_one(database: Path, tmp_path: Path) -> None:
    target = tmp_path / "one.db"
    back_up(database, target)
    before = target.read_bytes()
    damage(database)
    with pytest.raises((DatabaseCorrupt, sqlite3.DatabaseError)):
        back_up(database, target)
    assert target.read_bytes() == before
    assert not list(tmp_path.glob(".one.db*"))


def test_the_database_is_never_its_own_backup(database: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be a backup"):
        back_up(database, database)


def test_where_there_is_no_database_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no database"):
        back_up(tmp_path / "saeforge.db", tmp_path / "one.db")
    assert list(tmp_path.iterdir()) == []


def test_only_the_newest_backups_are_kept_and_other_files_are_left(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    names = [backup_name(now - timedelta(days=age)) for age in range(5)]
    for name in (*names, "saeforge-notes.db", "mine.db"):
        (tmp_path / name).touch()
    prune(tmp_path, keep=2)
    assert {path.name for path in tmp_path.iterdir()} == {*names[:2], "saeforge-notes.db", "mine.db"}
    assert [found.path.name for found in backups(tmp_path)] == names[:2]


def test_restoring_puts_back_what_was_there_and_keeps_what_it_replaced(database: Path, tmp_path: Path) -> None:
    backup = back_up(database, tmp_path / "one.db").path
    before = sorted(jobs_in(database))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM jobs")
    done = restore(backup, database, tmp_path / "backups")
    assert sorted(jobs_in(database)) == before
    assert done.jobs == len(before)
    assert done.replaced is not None
    assert jobs_in(done.replaced) == []
    assert database.stat().st_mode & 0o777 == 0o600


def test_changes_that_were_still_beside_the_replaced_file_never_reach_the_restored_one(
    database: Path, tmp_path: Path
) -> None:
    backup = back_up(database, tmp_path / "one.db").path
    writer = sqlite3.connect(database)
    writer.execute("PRAGMA journal_mode=WAL")
    with writer:
        writer.execute("DELETE FROM jobs")
    # The log of a process that was killed stays; a copy of both is what it leaves.
    killed = tmp_path / "killed"
    killed.mkdir()
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{database}{suffix}", killed / f"saeforge.db{suffix}")
    writer.close()
    assert (killed / "saeforge.db-wal").stat().st_size > 0
    restore(backup, killed / "saeforge.db", killed / "backups")
    assert len(jobs_in(killed / "saeforge.db")) == 50


def test_a_plain_copy_is_restored_with_the_changes_beside_it(database: Path, tmp_path: Path) -> None:
    writer = sqlite3.connect(database)
    writer.execute("PRAGMA foreign_keys=ON")
    writer.execute("PRAGMA journal_mode=WAL")
    with writer:
        writer.execute("DELETE FROM jobs WHERE name != 'job 7'")
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{database}{suffix}", tmp_path / f"copy.db{suffix}")
    writer.close()
    assert restore(tmp_path / "copy.db", tmp_path / "new" / "saeforge.db", tmp_path / "backups").jobs == 1


@pytest.mark.parametrize("how", ["damaged", "no database", "another's", "newer", "absent"])
def test_what_is_no_sound_database_of_ours_replaces_nothing(database: Path, tmp_path: Path, how: str) -> None:
    source = tmp_path / "source.db"
    if how == "no database":
        source.write_text("hello " * 1000)
    elif how == "another's":
        with closing(sqlite3.connect(source)) as connection, connection:
            connection.execute("CREATE TABLE other (x)")
    elif how != "absent":
        back_up(database, source)
    if how == "damaged":
        damage(source)
    if how == "newer":
        with closing(sqlite3.connect(source)) as connection:
            connection.execute("PRAGMA user_version=999")
    before = database.read_bytes()
    with pytest.raises((InvalidInput, DatabaseCorrupt)):
        restore(source, database, tmp_path / "backups")
    assert database.read_bytes() == before
    assert not (tmp_path / "backups").exists()


def test_a_sound_database_passes_the_check_and_a_damaged_one_does_not(database: Path) -> None:
    assert check(database) == []
    assert check(database, quick=True) == []
    damage(database)
    assert check(database)
    assert check(database, quick=True)


def test_the_advice_for_a_damaged_database_names_the_newest_backup(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    assert "--from-runs" in (corrupt(database, "bad", folder).suggestion or "")
    newest = back_up(database, folder / backup_name(datetime.now(UTC)))
    back_up(database, folder / backup_name(datetime.now(UTC) - timedelta(days=1)))
    assert str(newest.path) in (corrupt(database, "bad", folder).suggestion or "")


_BACK_UP_FOR_EVER = """
import sys
from pathlib import Path
from orchestrator.store.backup import back_up
print("begun", flush=True)
while True:
    back_up(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("moment_s", [0.0, 0.005, 0.02, 0.05, 0.1])
def test_killed_at_any_moment_a_backup_is_whole_or_not_there(database: Path, tmp_path: Path, moment_s: float) -> None:
    target = tmp_path / "one.db"
    process = subprocess.Popen(
        [sys.executable, "-c", _BACK_UP_FOR_EVER, str(database), str(target)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    try:
        process.wait(moment_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    if target.exists():
        assert check(target) == []
    assert check(database) == []
    back_up(database, target)
    assert len(jobs_in(target)) == 50
    assert not list(tmp_path.glob(".one.db*"))


_SUBMIT_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from orchestrator.store import Store
from tests.unit.orchestrator.jobs import container_job

async def main():
    store = await Store.open(Path(sys.argv[1]))
    async def submit():
        while True:
            job = await store.submit(container_job(tags=("t",)))
            print(job.id, flush=True)
    await asyncio.gather(*(submit() for _ in range(4)))

asyncio.run(main())
"""


@pytest.mark.parametrize("round", range(3))
def test_killed_while_it_writes_nothing_that_was_answered_is_lost(tmp_path: Path, round: int) -> None:
    database, answers = tmp_path / "saeforge.db", tmp_path / "answers"
    with answers.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", _SUBMIT_FOR_EVER, str(database)], stdout=out, cwd=ROOT)
    until(lambda: answers.stat().st_size > 37 * 20 * (round + 1), "some are submitted")
    process.send_signal(signal.SIGKILL)
    process.wait()
    answered = answers.read_text().split("\n")[:-1]
    assert check(database) == []

    async def kept() -> set[str]:
        store = await Store.open(database)
        found, _ = await store.jobs(JobFilter(tag="t"), limit=100_000)
        await store.close()
        return {str(job.id) for job in found}

    assert set(answered) <= asyncio.run(kept())


async def restored_after(tmp_path: Path, happens: Callable[[Store, Job], Awaitable[None]]) -> Job:
    """A queued job as it is known once the backup was put back that was made before something happened to it."""
    database = tmp_path / "saeforge.db"
    store = await Store.open(database)
    job = await store.submit(container_job())
    await store.submit(container_job())
    backup = back_up(database, tmp_path / "one.db")
    await happens(store, job)
    await store.close()
    replaced = restore(backup.path, database, tmp_path).replaced
    assert replaced is not None
    settle_as_in(replaced, database)
    again = await Store.open(database)
    try:
        return await again.job(job.id)
    finally:
        await again.close()


async def cancel(store: Store, job: Job) -> None:
    await store.transition(job, JobStatus.CANCELLED, "test", intent="cancel")


async def test_a_job_that_was_cancelled_since_the_backup_does_not_come_back_to_the_queue(tmp_path: Path) -> None:
    assert (await restored_after(tmp_path, cancel)).status is JobStatus.CANCELLED


async def test_a_job_that_ended_and_was_purged_since_the_backup_does_not_run_again(tmp_path: Path) -> None:
    async def purge(store: Store, job: Job) -> None:
        attempt = await store.begin_attempt(job, executor="fake", gpus=("GPU-0",), cpus=1)
        ended = Ended(EndReason.COMPLETED, JobStatus.COMPLETED)
        await store.finish(attempt, ended, seen_as=await store.job(job.id))
        await store.free(attempt)
        await store.removals.purge(job.id)

    assert (await restored_after(tmp_path, purge)).status is JobStatus.CANCELLED


async def test_a_job_that_goes_on_waiting_stays_in_the_queue(tmp_path: Path) -> None:
    async def nothing(store: Store, job: Job) -> None:
        pass

    assert (await restored_after(tmp_path, nothing)).status is JobStatus.QUEUED


async def test_a_database_of_another_history_ends_no_job(tmp_path: Path) -> None:
    async def lose_the_database(store: Store, job: Job) -> None:
        await store.close()
        for suffix in ("", "-wal", "-shm"):
            (tmp_path / f"saeforge.db{suffix}").unlink(missing_ok=True)
        new = await Store.open(tmp_path / "saeforge.db")
        await new.submit(container_job())
        await new.close()

    assert (await restored_after(tmp_path, lose_the_database)).status is JobStatus.QUEUED


def test_only_what_is_old_and_nobody_needs_any_more_is_left_over(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    folder = tmp_path / "backups"
    folder.mkdir()
    old = [
        "replaced-20260101T000000.000000Z.db",
        "replaced-20260101T000000.000000Z.db-wal",
        f".{backup_name(now)}.part",
    ]
    kept = [backup_name(now), "replaced-notes.txt", "mine.part"]
    for name in (*old, *kept):
        (folder / name).touch()
        os.utime(folder / name, (0, 0))
    young = folder / "replaced-20261122T000000.000000Z.db"
    young.touch()
    draft = tmp_path / ".saeforge.db.part"
    draft.touch()
    os.utime(draft, (0, 0))
    assert {path.name for path in leftovers(tmp_path / "saeforge.db", folder, now)} == {*old, draft.name}
