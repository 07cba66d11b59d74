from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.domain import JobStatus
from orchestrator.store import Store
from tests.unit.orchestrator.jobs import container_job


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "saeforge.db")
    yield opened
    await opened.close()


async def test_what_came_and_went_since_the_last_look_is_seen(store: Store) -> None:
    first = await store.submit(container_job())
    assert [job.id for job in await store.queue()] == [first.id]
    second = await store.submit(container_job(priority=1))
    assert [job.id for job in await store.queue()] == [second.id, first.id]
    await store.begin_attempt(second, executor="fake", gpus=(), cpus=1)
    assert [job.id for job in await store.queue()] == [first.id]


async def test_a_job_that_comes_back_to_the_queue_is_seen_as_it_is_now(store: Store) -> None:
    job = await store.submit(container_job())
    await store.queue()
    paused = await store.transition(job, JobStatus.PAUSED, "test", intent="pause")
    back = await store.transition(paused, JobStatus.QUEUED, "test", intent="run", phase="again")
    assert await store.queue() == [back]


async def test_a_job_that_left_and_was_purged_between_two_looks_is_gone(store: Store) -> None:
    job, stays = await store.submit(container_job()), await store.submit(container_job())
    assert len(await store.queue()) == 2
    await store.transition(job, JobStatus.CANCELLED, "test", intent="cancel")
    await store.purge(job.id)
    assert await store.queue() == [stays]


async def test_another_opening_of_the_file_sees_the_same_queue(store: Store, tmp_path: Path) -> None:
    for priority in (0, 2, 1, 2):
        await store.submit(container_job(priority=priority))
        await store.queue()
    other = await Store.open(tmp_path / "saeforge.db")
    assert await other.queue() == await store.queue()
    await other.close()


async def test_the_list_of_one_look_does_not_change_with_the_next(store: Store) -> None:
    job = await store.submit(container_job())
    seen = await store.queue()
    await store.submit(replace(container_job(), priority=9))
    await store.queue()
    assert seen == [job]
