"""A database of the oldest version becomes one of the newest and keeps what it holds."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from orchestrator.domain import EndReason, JobStatus
from orchestrator.store import JobFilter, Store
from orchestrator.store.backup import check
from orchestrator.store.statements import migrations
from tests.unit.orchestrator.jobs import container_job, training_job

ENDED, RUNNING = uuid4(), uuid4()
_JOB = "INSERT INTO jobs (id, type, name, owner, priority, params, resources, status, created_at, attempts) VALUES "
_OLD = [
    (
        _JOB + "(?, 'train_sae', 'old', 'ada', 3, ?, '{}', 'failed', 100.0, 1)",
        [str(ENDED), training_job().params.model_dump_json()],
    ),
    (
        _JOB + "(?, 'container', 'running', 'bob', 0, ?, '{}', 'running', 200.0, 1)",
        [str(RUNNING), container_job().params.model_dump_json()],
    ),
    ("INSERT INTO job_tags VALUES (?, 'a', 0)", [str(ENDED)]),
    ("INSERT INTO submissions VALUES ('key', 'digest', ?)", [str(ENDED)]),
    (
        "INSERT INTO attempts (job_id, number, executor, gpus, cpus, created_at, ended_at, released_at, exit_code, "
        "end_reason, events_offset) VALUES (?, 1, 'docker', '[]', 2.0, 110.0, 120.0, 121.0, 3, 'exit_code', 77)",
        [str(ENDED)],
    ),
    (
        "INSERT INTO attempts (job_id, number, executor, handle, gpus, cpus, created_at) "
        "VALUES (?, 1, 'docker', 'abc', '[\"GPU-0\"]', 1.0, 210.0)",
        [str(RUNNING)],
    ),
    ("INSERT INTO leases VALUES ('GPU-0', ?, 1)", [str(RUNNING)]),
    (
        "INSERT INTO events (job_id, attempt, seq, ts, type, data) VALUES (?, 1, 1, 111.0, 'message', ?)",
        [str(ENDED), json.dumps({"level": "info", "text": "hello"})],
    ),
    ("INSERT INTO metrics VALUES (?, 10, 112.0, '{\"loss\": 0.5}')", [str(ENDED)]),
    ("INSERT INTO checkpoints VALUES (?, 1, 'step_10', 10, 0.5, 9, 'sha256:0', 'interval', 113.0)", [str(ENDED)]),
    ("INSERT INTO artifacts VALUES (?, 1, 'sae.safetensors', 'sae', 9, 'sha256:0', 114.0)", [str(ENDED)]),
    ("INSERT INTO commands (id, job_id, attempt, body, requested_at) VALUES (?, ?, 1, '{\"type\": \"stop\"}', 115.0)", [
        str(uuid4()), str(ENDED),
    ]),
]  # fmt: skip


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database of the first version, with something in every table."""
    path = tmp_path / "saeforge.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"PRAGMA journal_mode=WAL; BEGIN; {migrations()[0]} PRAGMA user_version = 1; COMMIT;")
        with connection:
            for sql, values in _OLD:
                connection.execute(sql, values)
    return path


async def test_everything_in_the_oldest_database_is_there_in_the_newest(old: Path) -> None:
    store = await Store.open(old)
    job = await store.job(ENDED)
    assert (job.name, job.owner, job.priority, job.status, job.tags) == ("old", "ada", 3, JobStatus.FAILED, ("a",))
    assert job.created_at.timestamp() == 100
    assert job.params == training_job().params
    [attempt] = await store.attempts(ENDED)
    assert (attempt.exit_code, attempt.end_reason, attempt.events_offset) == (3, EndReason.EXIT_CODE, 77)
    assert [event.data["text"] for event in await store.events(after=0, job_id=ENDED, limit=9)] == ["hello"]
    assert [checkpoint.name for checkpoint in await store.checkpoints(ENDED)] == ["step_10"]
    assert [artifact.path for artifact in await store.artifacts(ENDED)] == ["sae.safetensors"]
    assert [command.type for command in await store.commands(ENDED)] == ["stop"]
    known = await store.submitted("key", "digest")
    assert known is not None
    assert known.id == ENDED
    assert set(await store.leases()) == {"GPU-0"}
    assert [live.handle for live in await store.live_attempts()] == ["abc"]
    assert (await store.jobs(JobFilter(), limit=9))[1] == 2
    await store.close()
    assert check(old) == []


async def test_the_newest_database_takes_new_jobs_beside_the_old_ones(old: Path) -> None:
    store = await Store.open(old)
    new = await store.submit(container_job())
    found, _ = await store.jobs(JobFilter(), limit=9)
    assert {job.id for job in found} == {ENDED, RUNNING, UUID(str(new.id))}
    await store.close()


def test_migrations_only_ever_follow_the_ones_before() -> None:
    folder = Path(__file__).parents[4] / "orchestrator" / "store" / "migrations"
    numbers = [int(path.name[:4]) for path in sorted(folder.glob("*.sql"))]
    assert len(set(numbers)) == len(numbers) == len(migrations())


async def test_a_migration_that_fails_half_way_leaves_the_old_database(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = (migrations()[0], "CREATE TABLE half (x); SELECT no_such_function();")
    monkeypatch.setattr("orchestrator.store.database.migrations", lambda: broken)
    with pytest.raises(sqlite3.OperationalError):
        await Store.open(old)
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'half'").fetchone() == (0,)
