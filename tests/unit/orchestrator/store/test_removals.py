"""What is deleted for good: not while somebody reads it, and not by halves."""

import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.domain import Attempt, Checkpoint, EndReason, Job, JobStatus, Resources
from orchestrator.errors import StaleTransition, StateConflict
from orchestrator.event_names import kinds
from orchestrator.pipelines import Pipeline, Step, StepRecord, StepState
from orchestrator.store import Ended, Store
from orchestrator.store.statements import migrations, statements
from orchestrator.store.webhooks import Webhook
from tests.unit.orchestrator.jobs import container_job, training_job
from worker_image.contract.events import CheckpointSaved, Message
from worker_image.contract.jobs import EvaluateSaeParams


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "saeforge.db")
    yield opened
    await opened.close()


async def begun(store: Store, job: Job) -> Attempt:
    return await store.begin_attempt(await store.submit(job), executor="fake", gpus=(), cpus=1)


async def end(store: Store, attempt: Attempt, status: JobStatus = JobStatus.FAILED) -> None:
    ended = Ended(EndReason.USER_ERROR, status)
    await store.finish(attempt, ended, seen_as=await store.job(attempt.job_id))
    await store.free(attempt)


async def trained(store: Store, status: JobStatus = JobStatus.FAILED) -> Job:
    """An ended training that left one checkpoint."""
    attempt = await begun(store, training_job())
    told = CheckpointSaved(seq=1, ts=1, name="step_1", step=1, size_bytes=1, digest="sha256:0", reason="interval")
    await store.append_events(attempt, [told], 1)
    await end(store, attempt, status)
    return await store.job(attempt.job_id)


def inside(job: Job, what: str = "checkpoints/step_1") -> str:
    return f"/data/runs/{job.id}/1/{what}"


def heir(job: Job) -> Job:
    return training_job(restarted_from=job.id, resume_from=inside(job))


async def checkpoint_of(store: Store, job: Job) -> Checkpoint:
    (found,) = await store.checkpoints(job.id)
    return found


async def test_a_job_is_kept_while_a_heir_of_its_heir_continues_from_its_checkpoint(store: Store) -> None:
    first = await trained(store)
    second = await begun(store, heir(first))
    await end(store, second)
    third = await store.submit(training_job(restarted_from=second.job_id, resume_from=inside(first)))
    with pytest.raises(StateConflict, match=str(third.id)):
        await store.removals.begin_purge(first.id)
    await store.removals.begin_purge(second.job_id)


async def test_a_job_is_kept_while_another_reads_a_file_in_its_run_directory(store: Store) -> None:
    first = await trained(store)
    reader = await store.submit(training_job(inputs={"dataset": inside(first, "artifacts/texts.jsonl")}))
    with pytest.raises(StateConflict, match=str(reader.id)):
        await store.removals.begin_purge(first.id)
    await store.transition(reader, JobStatus.CANCELLED, "test")
    await store.removals.begin_purge(first.id)


async def test_a_refusal_names_the_first_jobs_and_counts_the_others(store: Store) -> None:
    first = await trained(store)
    heirs = [await store.submit(heir(first)) for _ in range(5)]
    with pytest.raises(StateConflict, match=f"{heirs[0].id}, {heirs[1].id}, {heirs[2].id} and 2 more"):
        await store.removals.begin_purge(first.id)


async def test_a_job_is_kept_until_the_container_that_reads_its_files_is_gone(store: Store) -> None:
    first = await trained(store)
    attempt = await begun(store, heir(first))
    await store.finish(attempt, Ended(EndReason.STOPPED, JobStatus.STOPPED), seen_as=await store.job(attempt.job_id))
    with pytest.raises(StateConflict):
        await store.removals.begin_purge(first.id)
    await store.free(attempt)
    await store.removals.begin_purge(first.id)


async def test_a_job_is_kept_while_a_later_step_of_its_pipeline_waits(store: Store) -> None:
    first = await trained(store, JobStatus.COMPLETED)
    steps = (
        StepRecord(Step(name="train", type="container"), StepState.WAITING),
        StepRecord(Step(name="look", type="container", needs={"train": "completed"}), StepState.WAITING),
    )
    pipeline = Pipeline(name="p", owner="o", tags=(), steps=steps, id=first.id, created_at=first.created_at)
    await store.pipelines.submit(pipeline)
    job = container_job()
    await store.pipelines.start(pipeline.id, "train", job)
    attempt = await store.begin_attempt(await store.job(job.id), executor="fake", gpus=(), cpus=1)
    await end(store, attempt, JobStatus.COMPLETED)
    with pytest.raises(StateConflict, match="step 'look'"):
        await store.removals.begin_purge(job.id)
    await store.pipelines.end(pipeline.id, "look", StepState.SKIPPED, "")
    await store.removals.begin_purge(job.id)


async def test_nobody_begins_to_read_a_job_that_is_being_purged(store: Store) -> None:
    first = await trained(store)
    await store.removals.begin_purge(first.id)
    for reader in (
        heir(first),
        training_job(restarted_from=first.id),
        training_job(inputs={"dataset": inside(first, "artifacts/texts.jsonl")}),
    ):
        with pytest.raises(StateConflict, match="being purged"):
            await store.submit(reader)


async def test_nobody_reads_what_was_purged_between_looking_it_up_and_submitting(store: Store) -> None:
    first = await trained(store)
    named = EvaluateSaeParams(model="m", dataset="d", sae=f"job:{first.id}")
    await store.removals.purge(first.id)
    with pytest.raises(StateConflict, match="deleted"):
        await store.submit(heir(first))
    with pytest.raises(StateConflict, match="purged"):
        await store.submit(container_job(params=named, inputs={"sae": inside(first, "artifacts")}))


async def test_a_job_that_is_being_purged_is_known_as_such_after_a_crash(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "saeforge.db")
    first = await trained(store)
    await store.removals.begin_purge(first.id)
    await store.close()
    again = await Store.open(tmp_path / "saeforge.db")
    assert await again.removals.purging() == [first.id]
    assert (await again.job(first.id)).purging_at is not None
    await again.close()


async def test_a_checkpoint_that_is_being_deleted_is_no_longer_one_to_continue_from(store: Store) -> None:
    first = await trained(store)
    found = await checkpoint_of(store, first)
    await store.removals.begin_checkpoint(found, Path(inside(first)), seen_as=first)
    assert await store.checkpoints(first.id) == []
    with pytest.raises(StateConflict, match="deleted"):
        await store.submit(heir(first))
    assert await store.removals.deleting() == [found]
    await store.removals.forget_checkpoint(found)
    assert await store.removals.deleting() == []
    with pytest.raises(StateConflict, match="deleted"):
        await store.submit(heir(first))


async def test_a_checkpoint_that_another_job_reads_by_its_path_is_kept(store: Store) -> None:
    first = await trained(store)
    reader = await store.submit(training_job(inputs={"sae": inside(first, "checkpoints/step_1/sae")}))
    with pytest.raises(StateConflict, match=str(reader.id)):
        await store.removals.begin_checkpoint(await checkpoint_of(store, first), Path(inside(first)))


async def test_a_job_is_not_archived_once_somebody_continues_from_it(store: Store) -> None:
    first = await trained(store)
    found = await checkpoint_of(store, first)
    await store.submit(heir(first))
    assert not await store.removals.begin_archive(first.id, [found])
    assert await store.checkpoints(first.id) == [found]


async def test_purging_a_job_keeps_what_webhooks_are_still_to_be_told(store: Store) -> None:
    told = await store.webhooks.add(Webhook("http://x", ("status_changed",)))
    other = await store.webhooks.add(Webhook("http://x", ("status_changed",), owner="ada"))
    first = await trained(store)
    before, _ = await store.webhooks.waiting(told, kinds(told.events), after=told.cursor, limit=10)
    await store.removals.purge(first.id)
    later = await trained(store)
    found, upto = await store.webhooks.waiting(told, kinds(told.events), after=told.cursor, limit=10)
    assert found[: len(before)] == before
    assert [item.job_id for item in found[len(before) :]] == [later.id] * len(before)
    assert [item.id for item in found] == sorted(item.id for item in found)
    assert upto >= found[-1].id
    assert (await store.webhooks.waiting(other, kinds(other.events), after=0, limit=10))[0] == []


async def test_a_page_of_untold_events_does_not_pass_over_any(store: Store) -> None:
    hook = await store.webhooks.add(Webhook("http://x", ("status_changed",)))
    first = await trained(store)
    await store.removals.purge(first.id)
    await trained(store)
    whole, _ = await store.webhooks.waiting(hook, kinds(hook.events), after=0, limit=10)
    paged, after = [], 0
    while page := (await store.webhooks.waiting(hook, kinds(hook.events), after=after, limit=1))[0]:
        paged += page
        after = page[-1].id
    assert paged == whole


async def test_a_message_that_a_webhook_was_not_told_of_yet_is_not_thinned(store: Store) -> None:
    hook = await store.webhooks.add(Webhook("http://x", ("message",)))
    attempt = await begun(store, training_job())
    said = [Message(seq=n, ts=n, level="info", text=f"{n}") for n in range(1, 6)]
    await store.append_events(attempt, said, 1)
    await store.thin_events(attempt.job_id, 1)
    found, _ = await store.webhooks.waiting(hook, kinds(hook.events), after=0, limit=10)
    assert [item.data["text"] for item in found] == ["1", "2", "3", "4", "5"]


async def test_an_attempt_does_not_begin_with_resources_that_were_changed_since_it_was_planned(store: Store) -> None:
    planned = await store.submit(training_job())
    await store.update(planned, replace(planned, resources=Resources(gpus=4)))
    with pytest.raises(StaleTransition):
        await store.begin_attempt(planned, executor="fake", gpus=("GPU-0",), cpus=1)
    assert await store.leases() == {}
    assert (await store.job(planned.id)).status is JobStatus.QUEUED


@pytest.mark.parametrize(
    "name",
    [
        "readers_of",
        "pipeline_waiting_for",
        "continuing_from",
        "jobs_being_purged",
        "checkpoints_being_deleted",
        "keep_webhook_leftovers",
        "to_archive",
    ],
)
def test_what_a_removal_asks_is_read_off_indexes(name: str) -> None:
    with closing(sqlite3.connect(":memory:")) as file:
        for script in migrations():
            file.executescript(script)
        sql = statements()[name]
        bound = dict.fromkeys(re.findall(r":(\w+)", sql), 0)
        found = [row[3] for row in file.execute(f"EXPLAIN QUERY PLAN {sql}", bound)]
    scanned = [step for step in found if step.startswith("SCAN") and "INDEX" not in step]
    # A list in the values is no table, and a job has few tags.
    assert not [step for step in scanned if "VIRTUAL TABLE" not in step and "subquery" not in step], found
