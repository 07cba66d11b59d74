"""Counts over the whole: of what is, and of what has been and does not shrink."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from orchestrator.domain import EndReason, JobStatus
from orchestrator.store import Ended, Store
from tests.unit.orchestrator.jobs import container_job


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "saeforge.db")
    yield opened
    await opened.close()


async def run(store: Store, reason: EndReason = EndReason.COMPLETED, status: JobStatus = JobStatus.COMPLETED) -> UUID:
    job = await store.submit(container_job())
    attempt = await store.begin_attempt(job, executor="fake", gpus=(), cpus=1)
    await store.finish(attempt, Ended(reason=reason, status=status), seen_as=await store.job(job.id))
    await store.free(attempt)
    return job.id


async def test_the_queue_is_counted_as_it_is(store: Store) -> None:
    before = time.time()
    await store.submit(container_job())
    running = await store.submit(container_job())
    await store.begin_attempt(running, executor="fake", gpus=(), cpus=1)
    await run(store)
    census = await store.census()
    assert (census.by_status[JobStatus.QUEUED], census.by_status[JobStatus.STARTING]) == (1, 1)
    assert census.oldest_queued_at is not None
    assert before <= census.oldest_queued_at <= time.time()
    assert (census.running_attempts, census.begun_last_hour, census.ended_last_hour) == (1, 2, 1)


async def test_of_an_empty_queue_nothing_is_oldest(store: Store) -> None:
    census = await store.census()
    assert census.oldest_queued_at is None
    assert set(census.by_status.values()) == {0}


async def test_tallies_tell_by_reason_and_do_not_shrink_when_a_job_is_purged(store: Store) -> None:
    done = await run(store)
    await run(store, EndReason.HOST_OOM, JobStatus.FAILED)
    before = await store.tallies()
    await store.removals.purge(done)
    after = await store.tallies()
    assert after == before
    assert before.jobs_submitted == {"container": 2}
    assert before.jobs_ended == {"completed": 1, "failed": 1}
    assert before.attempts_begun == {"fake": 2}
    assert before.attempts_ended == {"completed": 1, "host_oom": 1}
    assert before.events > 0


async def test_durations_are_counted_in_buckets_each_of_which_holds_those_below(store: Store) -> None:
    for _ in range(3):
        await run(store)
    tallies = await store.tallies()
    counts = [count for _, count in tallies.attempts_by_duration]
    assert tallies.attempts_by_duration[-1] == (float("inf"), 3)
    assert counts == sorted(counts)
    assert 0 < tallies.attempt_seconds < 60


async def test_ending_an_attempt_again_counts_it_once(store: Store) -> None:
    job = await store.submit(container_job())
    attempt = await store.begin_attempt(job, executor="fake", gpus=(), cpus=1)
    ended = Ended(reason=EndReason.COMPLETED, status=JobStatus.COMPLETED)
    for _ in range(2):
        await store.finish(attempt, ended, seen_as=await store.job(job.id))
    assert (await store.tallies()).attempts_ended == {"completed": 1}


async def test_a_database_in_use_answers(store: Store) -> None:
    assert await store.answers()
