"""An older copy of the database is put back, or it is lost: what the run directories tell is taken over."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from orchestrator.executors.fake import FakeEngine
from orchestrator.rebuild import Rebuilt, rebuild
from orchestrator.store import Store
from orchestrator.store.backup import back_up, restore
from tests.integration.conftest import Orchestrator
from worker_image.contract.events import CheckpointSaved, Finished, Metrics
from worker_image.contract.rundir import RunDir


class Host:
    """One machine on which the orchestrator is started again and again, and its database replaced in between."""

    def __init__(self, home: Path, engine: FakeEngine) -> None:
        self._home, self._engine = home, engine
        self.now = Orchestrator.start(home, engine, cpus=4)

    def back_up(self) -> Path:
        return back_up(self.now.settings.database, self._home / "backups" / "one.db").path

    def restored(self, backup: Path) -> Rebuilt:
        """Put the backup back, rebuild, and start again."""
        self.now.stop()
        restore(backup, self.now.settings.database, self._home / "backups")
        rebuilt = asyncio.run(self._rebuild())
        self.now = Orchestrator.start(self._home, self._engine, cpus=4)
        return rebuilt

    async def _rebuild(self) -> Rebuilt:
        store = await Store.open(self.now.settings.database)
        try:
            return await rebuild(store, self._home)
        finally:
            await store.close()

    def without_database(self) -> None:
        """Lose the database, and start again."""
        self.now.stop()
        for path in self._home.glob("saeforge.db*"):
            path.unlink()
        self.now = Orchestrator.start(self._home, self._engine, cpus=4)


@pytest.fixture
def host(home: Path, engine: FakeEngine) -> Iterator[Host]:
    made = Host(home, engine)
    yield made
    made.now.stop()


def test_a_job_that_was_queued_in_the_backup_and_runs_now_goes_on_in_its_container(host: Host) -> None:
    host.now.engine.down = True
    job_id = host.now.submit()
    backup = host.back_up()
    host.now.engine.down = False
    host.now.reaches(job_id, "running")
    run = host.now.run_of(job_id)
    assert [attempt for _, attempt in host.restored(backup).attempts] == [1]
    host.now.reaches(job_id, "running")
    assert host.now.run_of(job_id) is run
    assert run.starts == 1
    host.now.exit(job_id)
    host.now.reaches(job_id, "completed")


def test_a_job_that_ran_in_the_backup_and_has_ended_since_is_settled_as_it_was_and_not_run_again(host: Host) -> None:
    good, bad, killed = (host.now.submit() for _ in range(3))
    for job_id in (good, bad, killed):
        host.now.reaches(job_id, "running")
    backup = host.back_up()
    host.now.exit(good, 0)
    host.now.exit(bad, 3)
    host.now.client.cancel(killed)
    before = {}
    for job_id, status in ((good, "completed"), (bad, "failed"), (killed, "cancelled")):
        host.now.reaches(job_id, status)
        before[job_id] = host.now.client.job(job_id)
    host.restored(backup)
    for job_id, was in before.items():
        is_now = host.now.client.job(job_id)
        assert (is_now.status, is_now.failure) == (was.status, was.failure)
        assert [attempt.exit_code for attempt in is_now.attempt_list] == [a.exit_code for a in was.attempt_list]
    assert host.now.engine.runs == {}


def test_a_job_submitted_after_the_backup_is_known_again_with_what_it_reported(host: Host) -> None:
    backup = host.back_up()
    job_id = host.now.train(name="mine", owner="ada", tags=["a"], priority=7)
    host.now.reaches(job_id, "running")
    host.now.report(
        job_id,
        Metrics(seq=1, ts=1, step=10, values={"loss": 0.5}),
        CheckpointSaved(seq=2, ts=2, name="step_10", step=10, size_bytes=1, digest="sha256:0", reason="interval"),
        Finished(seq=3, ts=3, outcome="completed", results={"fvu": 0.1}),
    )
    host.now.exit(job_id)
    host.now.reaches(job_id, "completed")
    was = host.now.client.job(job_id)
    host.restored(backup)
    is_now = host.now.client.job(job_id)
    for field in ("name", "owner", "tags", "priority", "params", "status", "results", "created_at"):
        assert getattr(is_now, field) == getattr(was, field)
    assert [point.step for point in host.now.client.metrics(job_id).items] == [10]
    assert [checkpoint.name for checkpoint in host.now.client.checkpoints(job_id)] == ["step_10"]


def test_without_any_database_running_jobs_are_found_and_events_are_stored_once(host: Host) -> None:
    job_id = host.now.train()
    host.now.reaches(job_id, "running")
    host.now.report(job_id, *(Metrics(seq=n, ts=n, step=n, values={"loss": 1 / n}) for n in range(1, 50)))
    run = host.now.run_of(job_id)
    host.without_database()
    host.now.reaches(job_id, "running")
    host.now.report(job_id, Finished(seq=50, ts=50, outcome="completed"))
    host.now.exit(job_id)
    host.now.reaches(job_id, "completed")
    assert run.starts == 1
    own = [event for event in host.now.client.events(job_id).items if event.seq is not None]
    assert [event.seq for event in own] == list(range(1, 51))


def test_an_attempt_that_a_later_one_followed_is_kept_as_ended(host: Host) -> None:
    job_id = host.now.train()
    host.now.reaches(job_id, "running")
    backup = host.back_up()
    host.now.client.pause(job_id)
    host.now.report(job_id, Finished(seq=1, ts=1, outcome="paused"))
    host.now.exit(job_id)
    host.now.reaches(job_id, "paused")
    host.now.client.resume(job_id)
    host.now.reaches(job_id, "running")
    host.restored(backup)
    host.now.reaches(job_id, "running")
    assert [attempt.end_reason for attempt in host.now.client.job(job_id).attempt_list] == ["paused", None]
    host.now.exit(job_id, attempt=2)
    host.now.reaches(job_id, "failed")


def test_an_attempt_whose_container_went_with_the_database_is_lost_and_not_started_twice(host: Host) -> None:
    job_id = host.now.submit(retry={"max_retries": 0})
    host.now.reaches(job_id, "running")
    run = host.now.run_of(job_id)
    host.now.engine.runs.clear()
    host.without_database()
    host.now.reaches(job_id, "failed")
    assert host.now.client.job(job_id).failure.reason == "lost"  # type: ignore[union-attr]
    assert run.starts == 1


def test_a_directory_of_which_only_the_parameters_are_left_becomes_a_job_too(host: Host, home: Path) -> None:
    job_id = host.now.train(name="old")
    host.now.reaches(job_id, "running")
    host.now.report(job_id, Finished(seq=1, ts=1, outcome="completed"))
    host.now.exit(job_id)
    host.now.reaches(job_id, "completed")
    for path in (home / "runs" / job_id).glob("*.json"):
        path.unlink()
    host.without_database()
    host.now.reaches(job_id, "completed")
    assert host.now.client.job(job_id).name == "old"


def test_a_directory_that_says_it_is_of_another_job_is_told_and_left(host: Host, home: Path) -> None:
    job_id = host.now.train()
    host.now.reaches(job_id, "running")
    strange = RunDir.of(home, UUID(int=7), 1)
    strange.path.mkdir(parents=True)
    (strange.params).write_bytes(RunDir.of(home, UUID(job_id), 1).params.read_bytes())
    rebuilt = host.restored(host.back_up())
    assert rebuilt.unreadable == (strange.path,)
    assert host.now.client.jobs().total == 1
