import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from orchestrator.domain import Attempt, EndReason, Job, JobFailure, JobStatus
from orchestrator.errors import IdempotencyConflict, NotFound, StaleTransition, StateConflict
from orchestrator.store import Ended, JobFilter, Store, StoreError
from orchestrator.store.statements import migrations
from tests.unit.orchestrator.jobs import container_job, training_job
from worker_image.contract.commands import CheckpointNow, SetLearningRate
from worker_image.contract.events import CheckpointRemoved, CheckpointSaved, CommandApplied, Finished, Metrics, Progress


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "saeforge.db")
    yield opened
    await opened.close()


async def begun(store: Store, job: Job | None = None, gpus: tuple[str, ...] = ()) -> tuple[Job, Attempt]:
    job = await store.submit(job or training_job())
    attempt = await store.begin_attempt(job, executor="fake", gpus=gpus, cpus=1)
    return await store.job(job.id), attempt


async def finish(store: Store, attempt: Attempt, ended: Ended) -> Job:
    return await store.finish(attempt, ended, seen_as=await store.job(attempt.job_id))


async def test_a_job_reads_back_as_it_was_submitted(store: Store) -> None:
    job = training_job(tags=("b", "a"), owner="ada", priority=3, inputs={"model": "/m"}, restarted_from=uuid4())
    await store.submit(job)
    assert await store.job(job.id) == job


async def test_a_submitted_job_survives_reopening(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "saeforge.db")
    job = await store.submit(container_job())
    await store.close()
    again = await Store.open(tmp_path / "saeforge.db")
    assert [found.id for found in (await again.turns.queue()).jobs] == [job.id]
    await again.close()


async def test_the_same_key_answers_with_the_same_job(store: Store) -> None:
    first = await store.submit(container_job(), idempotency_key="k", request_digest="d")
    second = await store.submit(container_job(), idempotency_key="k", request_digest="d")
    assert first.id == second.id
    assert (await store.jobs(JobFilter(), limit=10))[1] == 1


async def test_a_key_is_not_good_for_another_request(store: Store) -> None:
    await store.submit(container_job(), idempotency_key="k", request_digest="d")
    with pytest.raises(IdempotencyConflict):
        await store.submit(container_job(), idempotency_key="k", request_digest="other")


@pytest.mark.parametrize("steps", range(1, 12))
async def test_a_change_cancelled_at_any_moment_leaves_the_store_usable(store: Store, steps: int) -> None:
    cancelled = asyncio.create_task(store.submit(container_job()))
    for _ in range(steps):
        await asyncio.sleep(0)
    cancelled.cancel()
    with suppress(asyncio.CancelledError):
        await cancelled
    job = await store.submit(container_job())
    assert job.id in {found.id for found in (await store.turns.queue()).jobs}


async def test_an_unknown_job_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.job(UUID(int=0))


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (JobFilter(), True),
        (JobFilter(status=("queued", "running")), True),
        (JobFilter(status=("failed",)), False),
        (JobFilter(type="train_sae"), True),
        (JobFilter(type="container"), False),
        (JobFilter(owner="ada"), True),
        (JobFilter(tag="x"), True),
        (JobFilter(tag="y"), False),
        (JobFilter(model="m", dataset="d"), True),
        (JobFilter(model="d"), False),
        (JobFilter(q="100%"), True),
        (JobFilter(q="1%0"), False),
    ],
)
async def test_filters_match(store: Store, wanted: JobFilter, matches: bool) -> None:
    await store.submit(training_job(owner="ada", tags=("x",), name="at 100% k"))
    found, total = await store.jobs(wanted, limit=10)
    assert (len(found), total) == ((1, 1) if matches else (0, 0))


async def test_pages_are_newest_first(store: Store) -> None:
    jobs = [await store.submit(container_job()) for _ in range(5)]
    found, total = await store.jobs(JobFilter(), limit=2, offset=1)
    assert [job.id for job in found] == [jobs[3].id, jobs[2].id]
    assert total == 5


async def test_a_transition_from_a_stale_reading_is_refused(store: Store) -> None:
    job = await store.submit(container_job())
    await store.transition(job, JobStatus.PAUSED, "test")
    with pytest.raises(StaleTransition):
        await store.transition(job, JobStatus.CANCELLED, "test")


async def test_a_transition_the_table_does_not_have_is_refused(store: Store) -> None:
    job = await store.submit(container_job())
    with pytest.raises(StateConflict):
        await store.transition(job, JobStatus.COMPLETED, "test")


async def test_of_many_who_race_for_a_transition_one_wins(store: Store) -> None:
    job = await store.submit(container_job())
    results = await asyncio.gather(
        *(store.transition(job, JobStatus.CANCELLED, "race") for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(result, Job) for result in results) == 1


async def test_every_transition_leaves_an_event_with_its_reason(store: Store) -> None:
    job = await store.submit(container_job())
    await store.transition(job, JobStatus.CANCELLED, "because")
    events = await store.events(after=0, job_id=job.id, limit=10)
    assert [event.type for event in events] == ["job_created", "status_changed"]
    assert events[1].data == {"from": "queued", "to": "cancelled", "reason": "because"}


async def test_a_gpu_cannot_be_leased_twice(store: Store) -> None:
    await begun(store, gpus=("GPU-0",))
    second = await store.submit(container_job())
    with pytest.raises(StateConflict, match="GPU-0"):
        await store.begin_attempt(second, executor="fake", gpus=["GPU-0"], cpus=1)
    assert (await store.job(second.id)).status is JobStatus.QUEUED
    assert (await store.job(second.id)).attempts == 0


async def test_a_lease_outlives_the_end_until_the_container_is_gone(store: Store) -> None:
    job, attempt = await begun(store, gpus=("GPU-0",))
    await finish(store, attempt, Ended(EndReason.COMPLETED, JobStatus.COMPLETED, exit_code=0))
    assert await store.leases() == {"GPU-0": [job.id]}
    assert [live.number for live in await store.live_attempts()] == [1]
    await store.free(attempt)
    assert await store.leases() == {}
    assert await store.live_attempts() == []


async def test_finishing_twice_changes_nothing(store: Store) -> None:
    job, attempt = await begun(store)
    failure = JobFailure(EndReason.HOST_OOM, "no memory", "resources.memory_mb", "raise it")
    await finish(store, attempt, Ended(EndReason.HOST_OOM, JobStatus.FAILED, 137, failure))
    again = await finish(store, attempt, Ended(EndReason.COMPLETED, JobStatus.COMPLETED, 0))
    assert again.status is JobStatus.FAILED
    assert again.failure == failure
    assert (await store.attempt(job.id, 1)).end_reason is EndReason.HOST_OOM


async def test_events_read_twice_are_stored_once(store: Store) -> None:
    job, attempt = await begun(store)
    events = [Metrics(seq=1, ts=1, step=10, values={"loss": 2.0}), Metrics(seq=2, ts=2, step=20, values={"loss": 1.0})]
    assert await store.append_events(attempt, events, 100) == 2
    assert await store.append_events(attempt, events, 100) == 0
    (loss,) = await store.measurements.series(job.id, "metrics", most=10)
    assert [point.step for point in loss.points] == [10, 20]
    assert (await store.attempt(job.id, 1)).events_offset == 100


async def test_the_offset_never_goes_back(store: Store) -> None:
    job, attempt = await begun(store)
    await store.append_events(attempt, [], 100)
    await store.append_events(attempt, [], 50)
    assert (await store.attempt(job.id, 1)).events_offset == 100


async def test_a_job_carries_its_newest_figures(store: Store) -> None:
    job, attempt = await begun(store)
    await store.append_events(
        attempt,
        [
            Metrics(seq=1, ts=1, step=10, values={"loss": 2.0}),
            Progress(seq=2, ts=2, phase="training", done=10, total=100, unit="steps", eta_s=9),
            Finished(seq=3, ts=3, outcome="completed", results={"fvu": 0.1}),
        ],
        10,
    )
    job = await store.job(job.id)
    assert job.metrics == {"loss": 2.0, "step": 10}
    assert job.phase == "training"
    assert job.progress is not None
    assert job.progress["done"] == 10
    assert job.results == {"fvu": 0.1}
    assert await store.finished(attempt) == Finished(seq=3, ts=3, outcome="completed", results={"fvu": 0.1})


async def test_checkpoints_come_and_go(store: Store) -> None:
    job, attempt = await begun(store)
    saved = [
        CheckpointSaved(
            seq=n, ts=n, name=f"step_{n}00", step=n * 100, size_bytes=1, digest="sha256:0", reason="interval"
        )
        for n in (1, 9, 10)
    ]
    await store.append_events(attempt, [*saved, CheckpointRemoved(seq=11, ts=11, name="step_100")], 10)
    assert [checkpoint.name for checkpoint in await store.checkpoints(job.id)] == ["step_1000", "step_900"]


async def test_a_command_is_requested_until_the_worker_answers(store: Store) -> None:
    job, attempt = await begun(store)
    command = CheckpointNow(id=uuid4(), ts=5)
    await store.request(job, command, to=None, reason="", intent=None, phase="")
    (requested,) = await store.commands(job.id)
    assert (requested.id, requested.status, json.loads(requested.body)["type"]) == (
        command.id,
        "requested",
        "checkpoint",
    )
    await store.append_events(attempt, [CommandApplied(seq=1, ts=7, command_id=command.id, detail="saved")], 1)
    (applied,) = await store.commands(job.id)
    assert (applied.status, applied.detail) == ("applied", "saved")


async def test_a_command_nobody_answered_expires_with_its_attempt(store: Store) -> None:
    job, attempt = await begun(store)
    await store.request(job, CheckpointNow(id=uuid4(), ts=5), to=None, reason="", intent=None, phase="")
    await finish(store, attempt, Ended(EndReason.COMPLETED, JobStatus.COMPLETED))
    assert [command.status for command in await store.commands(job.id)] == ["expired"]


@pytest.mark.parametrize("end", [JobStatus.COMPLETED, JobStatus.QUEUED])
async def test_no_command_is_kept_for_an_attempt_that_ended_meanwhile(store: Store, end: JobStatus) -> None:
    job, attempt = await begun(store)
    await finish(store, attempt, Ended(EndReason.LOST, end))
    if end is JobStatus.QUEUED:
        await store.begin_attempt(await store.job(job.id), executor="fake", gpus=(), cpus=1)
    with pytest.raises(StaleTransition):
        await store.request(job, CheckpointNow(id=uuid4(), ts=5), to=None, reason="", intent=None, phase="")
    assert await store.commands(job.id) == []


async def test_only_an_ended_job_can_be_purged_and_nothing_of_it_stays(store: Store, tmp_path: Path) -> None:
    job, attempt = await begun(store, training_job(tags=("t",)), gpus=("GPU-0",))
    with pytest.raises(StateConflict):
        await store.removals.purge(job.id)
    await store.append_events(attempt, [Metrics(seq=1, ts=1, step=1, values={"loss": 1.0})], 1)
    await finish(store, attempt, Ended(EndReason.COMPLETED, JobStatus.COMPLETED))
    with pytest.raises(StateConflict, match="container"):
        await store.removals.purge(job.id)
    await store.free(attempt)
    await store.removals.purge(job.id)
    database = sqlite3.connect(tmp_path / "saeforge.db")
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    left = {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
    database.close()
    # Counts for monitoring stay: what was purged has happened all the same, and they name nothing of it.
    assert {name for name, count in left.items() if count} <= {"sqlite_sequence", "tallies", "attempt_durations"}


async def test_a_job_another_continues_from_cannot_be_purged(store: Store) -> None:
    job, attempt = await begun(store)
    await finish(store, attempt, Ended(EndReason.STOPPED, JobStatus.STOPPED))
    await store.free(attempt)
    told = CheckpointSaved(seq=1, ts=1, name="step_1", step=1, size_bytes=1, digest="sha256:0", reason="interval")
    await store.append_events(attempt, [told], 1)
    path = f"/home/runs/{job.id}/1/checkpoints/step_1"
    await store.submit(replace(training_job(), restarted_from=job.id, resume_from=path))
    with pytest.raises(StateConflict, match="continues"):
        await store.removals.purge(job.id)


async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "saeforge.db"
    path.write_text("this is no database at all, but long enough to look like a file" * 20)
    with pytest.raises(StoreError, match="cannot be opened"):
        await Store.open(path)


async def test_a_change_between_two_attempts_is_not_kept_of_a_job_that_has_begun_meanwhile(store: Store) -> None:
    waiting = await store.submit(training_job())
    await store.begin_attempt(waiting, executor="fake", gpus=(), cpus=1)
    with pytest.raises(StaleTransition):
        await store.change_between(waiting, SetLearningRate(id=uuid4(), ts=5, lr=1e-3), step=0, detail="")
    assert await store.commands(waiting.id) == []


async def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "saeforge.db"
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {len(migrations()) + 1}")
    database.close()
    with pytest.raises(StoreError, match="newer"):
        await Store.open(path)


async def test_a_job_that_asks_for_something_else_by_now_does_not_begin_with_what_it_asked_for(store: Store) -> None:
    planned = await store.submit(training_job())
    changed = await store.update(planned, replace(planned, resources=planned.resources.model_copy(update={"cpus": 7})))
    with pytest.raises(StaleTransition):
        await store.begin_attempt(planned, executor="fake", gpus=(), cpus=1)
    assert (await store.job(planned.id)).status is JobStatus.QUEUED
    assert (await store.begin_attempt(changed, executor="fake", gpus=(), cpus=7)).number == 1
