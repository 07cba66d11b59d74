from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.domain import JobStatus, Owner
from orchestrator.errors import QuotaExceeded
from orchestrator.store import Store
from tests.unit.orchestrator.jobs import container_job


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "saeforge.db")
    yield store
    await store.close()


async def test_shares_and_limits_are_kept_and_changed(store: Store) -> None:
    await store.owners.put(Owner("ada", share=2.0, max_running=3, max_gpus=4, max_queued=5))
    changed = await store.owners.put(Owner("ada", share=1.0, max_gpus=4))
    assert changed == Owner("ada", share=1.0, max_gpus=4)
    assert await store.owners.all() == {"ada": changed}


async def test_a_job_too_many_in_the_queue_is_refused_by_name(store: Store) -> None:
    await store.owners.put(Owner("ada", max_queued=1))
    first = await store.submit(container_job(owner="ada"))
    with pytest.raises(QuotaExceeded, match="'ada' may have at most 1"):
        await store.submit(container_job(owner="ada"))
    await store.submit(container_job(owner="bob"))
    await store.transition(first, JobStatus.CANCELLED, "a test")
    await store.submit(container_job(owner="ada"))
    assert await store.owners.queued() == {"ada": 1, "bob": 1}


async def test_a_submit_repeated_by_its_key_is_not_one_more(store: Store) -> None:
    await store.owners.put(Owner("ada", max_queued=1))
    first = await store.submit(container_job(owner="ada"), idempotency_key="k", request_digest="d")
    assert (await store.submit(container_job(owner="ada"), idempotency_key="k", request_digest="d")).id == first.id
