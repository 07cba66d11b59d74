"""Ended jobs are archived: less is kept of them, and nothing that anybody still needs goes."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from orchestrator import cleanup
from orchestrator.client import Client
from orchestrator.domain import JobStatus
from orchestrator.errors import OrchestratorError, StateConflict
from orchestrator.executors.fake import FakeEngine
from orchestrator.views import ActivationCacheView
from tests.integration.conftest import Orchestrator
from tests.waiting import until
from worker_image.contract.cachedir import CacheDir
from worker_image.contract.events import CheckpointSaved, Failure, Finished
from worker_image.contract.rundir import RunDir

LOG = b"".join(b"step %d loss 0.5\n" % number for number in range(200_000))


@pytest.fixture
def client(orchestrator: Orchestrator) -> Client:
    return orchestrator.client


def run_dir(orchestrator: Orchestrator, job_id: str, attempt: int = 1) -> RunDir:
    return RunDir.of(orchestrator.settings.home, UUID(job_id), attempt)


def trained(orchestrator: Orchestrator, steps: tuple[int, ...] = (10, 20, 30), outcome: str = "completed") -> str:
    """An ended training with these checkpoints, a log and an artifact."""
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    directory = run_dir(orchestrator, job_id)
    for seq, step in enumerate(steps, start=1):
        folder = directory.checkpoints / f"step_{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(100_000))
        saved = CheckpointSaved(
            seq=seq, ts=seq, name=folder.name, step=step, size_bytes=100_000, digest="sha256:0", reason="interval"
        )
        orchestrator.report(job_id, saved)
    directory.log.write_bytes(LOG)
    (directory.artifacts / "sae.safetensors").write_bytes(b"weights")
    failure = Failure(code="user_error", message="no") if outcome == "failed" else None
    orchestrator.report(job_id, Finished(seq=100, ts=100, outcome=outcome, failure=failure))
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, outcome)
    store = orchestrator.state.store
    until(lambda: not orchestrator.does(store.live_attempts()), "its container is gone")
    return job_id


def purged(client: Client, job_id: str) -> bool:
    with suppress(StateConflict):
        client.purge(job_id)
        return True
    return False


def names(client: Client, job_id: str) -> list[str]:
    return [item.name for item in client.checkpoints(job_id)]


def test_an_archived_job_leaves_the_lists_and_keeps_its_last_checkpoint_its_artifacts_and_its_log(
    orchestrator: Orchestrator, client: Client, tmp_path: Path
) -> None:
    job_id = trained(orchestrator)
    directory = run_dir(orchestrator, job_id)
    done = client.clean_up(older_than_days=0)
    assert (done.jobs, done.checkpoints, done.left) == (1, 2, 0)
    assert done.freed_bytes > 200_000 + len(LOG) // 2
    assert client.jobs().total == 0
    assert [str(job.id) for job in client.jobs(archived="true").items] == [job_id]
    assert client.jobs(archived="any").total == 1
    assert client.job(job_id).archived_at is not None
    assert names(client, job_id) == ["step_30"]
    assert [path.name for path in directory.checkpoints.iterdir()] == ["step_30"]
    assert (directory.artifacts / "sae.safetensors").read_bytes() == b"weights"
    assert not directory.log.exists()
    client.download_log(job_id, tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == LOG
    assert client.logs(job_id, tail=1).data == "step 199999 loss 0.5\n"
    assert "".join(frame.data for frame in client.follow_log(job_id)).encode() == LOG
    assert client.events(job_id).items[-1].type == "job_archived"


def test_a_dry_run_says_how_much_and_touches_nothing(orchestrator: Orchestrator, client: Client) -> None:
    job_id = trained(orchestrator)
    done = client.clean_up(older_than_days=0, dry_run=True)
    assert (done.jobs, done.checkpoints) == (1, 2)
    assert done.freed_bytes >= 200_000
    assert done.log_bytes >= len(LOG)
    assert client.jobs().total == 1
    assert len(names(client, job_id)) == 3
    assert run_dir(orchestrator, job_id).log.read_bytes() == LOG


def test_a_job_that_ended_lately_is_left(orchestrator: Orchestrator, client: Client) -> None:
    trained(orchestrator)
    assert client.clean_up(older_than_days=1).jobs == 0
    assert client.clean_up().jobs == 0


def test_what_has_not_ended_is_left(orchestrator: Orchestrator, client: Client) -> None:
    running = orchestrator.train()
    orchestrator.reaches(running, "running")
    paused = orchestrator.submit()
    client.pause(paused)
    assert client.clean_up(older_than_days=0).jobs == 0


def test_a_job_that_a_live_one_continues_from_is_left_until_that_has_ended(
    orchestrator: Orchestrator, client: Client
) -> None:
    first = trained(orchestrator, outcome="failed")
    heir = str(client.restart(first).id)
    assert client.clean_up(older_than_days=0).jobs == 0
    assert len(names(client, first)) == 3
    client.cancel(heir)
    orchestrator.reaches(heir, "cancelled")
    until(lambda: client.clean_up(older_than_days=0) and client.jobs().total == 0, "both are archived")


def test_an_older_checkpoint_that_another_job_began_from_is_kept(orchestrator: Orchestrator, client: Client) -> None:
    first = trained(orchestrator, steps=(10, 20), outcome="failed")
    heir = str(client.restart(first).id)
    client.cancel(heir)
    orchestrator.reaches(heir, "cancelled")
    # A later checkpoint of the first one, so that what the heir began from is no longer the newest.
    directory = run_dir(orchestrator, first)
    (directory.checkpoints / "step_99").mkdir()
    attempt = orchestrator.does(orchestrator.state.store.attempt(UUID(first), 1))
    late = CheckpointSaved(seq=99, ts=9, name="step_99", step=99, size_bytes=1, digest="sha256:0", reason="final")
    orchestrator.does(orchestrator.state.store.append_events(attempt, [late], attempt.events_offset))
    client.clean_up(older_than_days=0)
    assert names(client, first) == ["step_99", "step_20"]


def test_an_archived_job_can_be_restarted_from_its_checkpoint_and_purged(
    orchestrator: Orchestrator, client: Client
) -> None:
    job_id = trained(orchestrator, outcome="failed")
    client.clean_up(older_than_days=0)
    heir = client.restart(job_id)
    orchestrator.reaches(str(heir.id), "running")
    resumed_from = client.job(heir.id).attempt_list[0].resume_from
    assert resumed_from is not None
    assert resumed_from.endswith("step_30")
    client.cancel(heir.id)
    client.wait(heir.id, until={JobStatus.CANCELLED}, timeout_s=10)
    until(lambda: purged(client, job_id), "it can be purged")
    assert not run_dir(orchestrator, job_id).path.exists()


def test_a_link_in_place_of_the_checkpoints_is_not_followed(
    orchestrator: Orchestrator, client: Client, tmp_path: Path
) -> None:
    job_id = trained(orchestrator)
    directory = run_dir(orchestrator, job_id)
    elsewhere = tmp_path / "elsewhere"
    directory.checkpoints.rename(elsewhere)
    directory.checkpoints.symlink_to(elsewhere)
    client.clean_up(older_than_days=0)
    assert len(list(elsewhere.iterdir())) == 3


def test_a_directory_of_no_job_is_told_and_deleted_only_when_asked(orchestrator: Orchestrator, client: Client) -> None:
    known = trained(orchestrator)
    runs = orchestrator.settings.runs
    orphan = runs / str(uuid4())
    (orphan / "1").mkdir(parents=True)
    (orphan / "1" / "log").write_bytes(bytes(10_000))
    (runs / "notes").mkdir()
    told = client.clean_up(older_than_days=1)
    assert [item.path for item in told.orphans] == [str(orphan)]
    assert told.orphans[0].size_bytes >= 10_000
    assert not told.orphans_removed
    assert orphan.exists()
    assert client.clean_up(older_than_days=1, orphans=True, dry_run=True).orphans_removed is False
    assert orphan.exists()
    assert client.clean_up(older_than_days=1, orphans=True).orphans_removed
    assert not orphan.exists()
    assert (runs / "notes").exists()
    assert (runs / known).exists()


def test_a_job_whose_files_cannot_be_changed_keeps_no_other_from_being_archived(
    orchestrator: Orchestrator, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, fine = trained(orchestrator), trained(orchestrator)
    carry_out = cleanup._carry_out

    def unless_stuck(plan: cleanup._Plan) -> int:
        if str(plan.job_id) == stuck:
            raise PermissionError("checkpoints")
        return carry_out(plan)

    monkeypatch.setattr(cleanup, "_carry_out", unless_stuck)
    done = client.clean_up(older_than_days=0)
    assert (done.jobs, done.left) == (1, 1)
    assert names(client, fine) == ["step_30"]
    # Nobody is to continue from what may be deleted by half; the next time does the rest.
    assert names(client, stuck) == ["step_30"]
    monkeypatch.undo()
    assert client.clean_up(older_than_days=0).checkpoints == 2
    assert [path.name for path in run_dir(orchestrator, stuck).checkpoints.iterdir()] == ["step_30"]


@pytest.fixture
def cache(orchestrator: Orchestrator) -> CacheDir:
    """The activation cache, with an entry that a job uses and one that none does."""
    found = CacheDir(orchestrator.settings.activation_cache)
    for name, size in (("used", 1000), ("unused", 500)):
        (found.entries / name).mkdir(parents=True)
        (found.entries / name / "shard-000000.safetensors").write_bytes(bytes(size))
    found.locks.mkdir()
    return found


def test_what_no_job_uses_of_the_activation_cache_goes_when_asked_and_is_told_before(
    client: Client, cache: CacheDir
) -> None:
    reader = cache.lock("used", "use", fcntl.LOCK_SH)
    assert client.clean_up().cache_entries == 0
    told = client.clean_up(cache=True, dry_run=True)
    assert (told.cache_entries, told.cache_bytes, cache.size_bytes) == (1, 500, 1500)
    done = client.clean_up(cache=True)
    assert (done.cache_entries, done.cache_bytes) == (1, 500)
    assert [entry.name for entry in cache.look()] == ["used"]
    os.close(reader)
    assert client.clean_up(cache=True).cache_bytes == 1000
    assert cache.look() == []


def test_the_activation_caches_size_and_limit_are_told(
    orchestrator: Orchestrator, client: Client, cache: CacheDir
) -> None:
    def told() -> ActivationCacheView | None:
        return client.system_status().activation_cache

    limit = orchestrator.settings.activation_cache_mb << 20
    wanted = ActivationCacheView(entries=2, size_bytes=1500, limit_bytes=limit)
    until(lambda: told() == wanted, "what was seen before is shown no longer")


def test_only_an_administrator_may_empty_the_activation_cache(
    orchestrator: Orchestrator, client: Client, cache: CacheDir
) -> None:
    made = client.create_key("writer", role="write")
    with Client(orchestrator.url, made.key, retries=0) as writer, pytest.raises(OrchestratorError) as caught:
        writer.clean_up(cache=True)
    assert caught.value.code == "forbidden"
    assert len(cache.look()) == 2


def test_a_job_whose_purge_was_begun_is_good_for_nothing_else_and_gone_after_a_restart(
    home: Path, engine: FakeEngine
) -> None:
    orchestrator = Orchestrator.start(home, engine, cpus=4)
    try:
        job_id = trained(orchestrator, outcome="failed")
        orchestrator.does(orchestrator.state.store.removals.begin_purge(UUID(job_id)))
        client = orchestrator.client
        assert client.job(job_id).available_actions == ["purge"]
        for ask in (client.restart, client.clone):
            with pytest.raises(StateConflict, match="being purged"):
                ask(job_id)
        with pytest.raises(StateConflict, match="being purged"):
            client.delete_checkpoint(job_id, "step_10")
    finally:
        orchestrator.stop()
    again = Orchestrator.start(home, engine, cpus=4)
    try:
        until(lambda: again.client.jobs(archived="any").total == 0, "it is gone")
        assert not (again.settings.runs / job_id).exists()
    finally:
        again.stop()
