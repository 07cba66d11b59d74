import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.domain import EndReason, JobStatus, Resources
from orchestrator.store import Ended, Store
from tests.unit.orchestrator.jobs import container_job, training_job


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "saeforge.db")
    yield store
    await store.close()


async def test_the_queue_tells_what_decides_a_turn(store: Store) -> None:
    job = await store.submit(training_job(owner="ada", priority=3, resources=Resources(gpus=2)))
    (found,) = (await store.turns.queue()).jobs
    assert (found.id, found.owner, found.priority) == (job.id, "ada", 3)
    assert found.created_at == pytest.approx(job.created_at.timestamp())
    assert (found.shape.type, found.shape.resources) == ("train_sae", Resources(gpus=2))


async def test_jobs_that_ask_alike_share_a_shape(store: Store) -> None:
    for _ in range(2):
        await store.submit(container_job())
    one, other = (await store.turns.queue()).jobs
    assert one.shape is other.shape


async def test_what_came_and_what_went_since_the_last_look_is_told(store: Store) -> None:
    goes = await store.submit(container_job())
    before = await store.turns.queue()
    comes = await store.submit(container_job())
    await store.transition(goes, JobStatus.CANCELLED, "a test")
    changes = await store.turns.changes(before.last)
    assert [job.id for job in changes.jobs] == [comes.id]
    assert list(changes.gone) == [goes.id]
    again = await store.turns.changes(changes.last)
    assert (list(again.jobs), list(again.gone), again.last) == ([], [], changes.last)


async def test_a_job_whose_priority_changed_is_told_as_it_is_now(store: Store) -> None:
    job = await store.submit(container_job())
    before = await store.turns.queue()
    await store.update(job, replace(job, priority=7))
    (changed,) = (await store.turns.changes(before.last)).jobs
    assert changed.priority == 7


async def test_a_job_that_came_back_between_two_looks_is_in_the_queue(store: Store) -> None:
    job = await store.submit(container_job())
    before = await store.turns.queue()
    paused = await store.transition(job, JobStatus.PAUSED, "a test")
    await store.transition(paused, JobStatus.QUEUED, "a test")
    changes = await store.turns.changes(before.last)
    assert [found.id for found in changes.jobs] == [job.id]
    assert not changes.gone


async def test_what_a_live_attempt_holds_is_told_until_it_is_freed(store: Store) -> None:
    job = await store.submit(training_job(owner="ada", priority=2, resources=Resources(timeout_s=50, memory_mb=100)))
    attempt = await store.begin_attempt(job, executor="fake", gpus=["GPU-a"], cpus=2, gpu_memory_mb=500, weight=0.5)
    (held,) = await store.turns.holdings()
    assert (held.job_id, held.owner, held.priority, held.type) == (job.id, "ada", 2, "train_sae")
    assert (held.cpus, held.memory_mb, held.gpus, held.gpu_memory_mb) == (2, 100, ("GPU-a",), 500)
    assert (held.weight, held.timeout_s, held.eta_s, held.ended) == (0.5, 50, None, False)
    started = await store.job(job.id)
    await store.finish(attempt, Ended(EndReason.COMPLETED, JobStatus.COMPLETED), seen_as=started)
    assert (await store.turns.holdings())[0].ended
    await store.free(attempt)
    assert await store.turns.holdings() == []


async def test_completed_jobs_tell_how_long_they_ran(store: Store) -> None:
    job = await store.submit(container_job(owner="ada"))
    attempt = await store.begin_attempt(job, executor="fake", gpus=[], cpus=1)
    await store.attach(attempt, "handle")
    await store.finish(attempt, Ended(EndReason.COMPLETED, JobStatus.COMPLETED), seen_as=await store.job(job.id))
    ((job_type, owner, ran_s),) = await store.turns.durations(10)
    assert (job_type, owner) == ("container", "ada")
    assert 0 <= ran_s < 60


async def test_a_freed_attempt_is_charged_to_its_owner_once(store: Store) -> None:
    job = await store.submit(container_job(owner="ada"))
    attempt = await store.begin_attempt(job, executor="fake", gpus=["GPU-a"], cpus=1, weight=1e6)
    await store.free(attempt)
    used = (await store.owners.all())["ada"]
    assert 0 < used.usage < 1e6 * 60
    assert used.usage_at == pytest.approx(time.time(), abs=60)
    await store.free(attempt)
    assert (await store.owners.all())["ada"] == used


async def test_a_job_that_left_and_was_purged_between_two_looks_is_missed_by_the_length(store: Store) -> None:
    job, stays = await store.submit(container_job()), await store.submit(container_job())
    before = await store.turns.queue()
    await store.transition(job, JobStatus.CANCELLED, "a test", intent="cancel")
    await store.removals.purge(job.id)
    changes = await store.turns.changes(before.last)
    assert (before.length, changes.length) == (2, 1)
    assert [found.id for found in (await store.turns.queue()).jobs] == [stays.id]
