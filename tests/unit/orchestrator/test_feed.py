import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from orchestrator.broker import Broker
from orchestrator.domain import JobStatus
from orchestrator.errors import NotFound
from orchestrator.feed import FRAME_BYTES, Feed, Feeds, frame_of
from orchestrator.growth import Growth
from orchestrator.store import Store
from tests.unit.orchestrator.jobs import container_job
from worker_image.contract.rundir import RunDir

JOB = uuid4()


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    found = RunDir.of(tmp_path, JOB, 1)
    found.path.mkdir(parents=True)
    return found


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as found:
        yield found


async def test_viewers_who_want_the_same_at_once_share_one_reading(
    run_dir: RunDir, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    run_dir.log.write_bytes(b"shared\n")
    feed = Feed(JOB, tmp_path, pool)
    frames = await asyncio.gather(*(feed.frame(1, 0, binary=True) for _ in range(10)))
    assert all(frame is frames[0] for frame in frames)
    assert await feed.frame(1, 0, binary=True) is not frames[0]


async def test_a_viewer_that_leaves_takes_no_reading_from_the_others(
    run_dir: RunDir, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    run_dir.log.write_bytes(b"shared\n")
    feed = Feed(JOB, tmp_path, pool)
    leaving, staying = (asyncio.ensure_future(feed.frame(1, 0, binary=True)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).next_offset == 7


def test_a_half_written_character_waits_only_while_the_attempt_runs(run_dir: RunDir) -> None:
    run_dir.log.write_bytes("a€".encode()[:-1])
    assert frame_of(run_dir, 1, 0, binary=False, over=False).next_offset == 1
    assert frame_of(run_dir, 1, 1, binary=False, over=False).message is None
    assert frame_of(run_dir, 1, 1, binary=False, over=True).next_offset == 3


def test_a_frame_ends_between_characters(run_dir: RunDir) -> None:
    run_dir.log.write_bytes(b"x" + "€".encode() * FRAME_BYTES)
    frame = frame_of(run_dir, 1, 0, binary=False, over=False)
    assert isinstance(frame.message, str)
    assert set(json.loads(frame.message)["data"]) == {"x", "€"}
    assert FRAME_BYTES - 3 < frame.next_offset <= FRAME_BYTES


@asynccontextmanager
async def feeds_over(tmp_path: Path) -> AsyncIterator[tuple[Store, Broker, Feeds, UUID]]:
    store, broker, growth = await Store.open(tmp_path / "db"), Broker(), Growth()
    feeds = Feeds(store=store, broker=broker, growth=growth, home=tmp_path)
    job = await store.submit(container_job())
    try:
        yield store, broker, feeds, job.id
    finally:
        await feeds.close()
        await growth.close()
        await store.close()


async def test_the_feed_knows_where_the_job_stands_and_rings_when_that_changes(tmp_path: Path) -> None:
    async with feeds_over(tmp_path) as (store, broker, feeds, job_id), feeds.follow(job_id) as feed:
        assert (feed.attempts, feed.status) == (0, JobStatus.QUEUED)
        heard = feed.bell.listen()
        await store.begin_attempt(await store.job(job_id), executor="fake", gpus=(), cpus=1)
        broker.ring(job_id)
        await asyncio.wait_for(heard.wait(), 10)
        assert (feed.attempts, feed.status) == (1, JobStatus.STARTING)


async def test_the_feed_rings_when_the_log_of_the_newest_attempt_grows(tmp_path: Path) -> None:
    async with feeds_over(tmp_path) as (store, _, feeds, job_id):
        await store.begin_attempt(await store.job(job_id), executor="fake", gpus=(), cpus=1)
        log = RunDir.of(tmp_path, job_id, 1).log
        log.parent.mkdir(parents=True)
        log.touch()
        async with feeds.follow(job_id) as feed:
            heard = feed.bell.listen()
            await asyncio.wait_for(heard.wait(), 10)
            heard = feed.bell.listen()
            log.write_bytes(b"line\n")
            await asyncio.wait_for(heard.wait(), 10)


async def test_those_who_follow_one_job_share_its_feed(tmp_path: Path) -> None:
    async with feeds_over(tmp_path) as (_, _, feeds, job_id):
        async with feeds.follow(job_id) as one, feeds.follow(job_id) as other:
            assert one is other
        async with feeds.follow(job_id) as later:
            assert later is not one


async def test_container_job_that_is_purged_closes_its_feed(tmp_path: Path) -> None:
    async with feeds_over(tmp_path) as (store, broker, feeds, job_id), feeds.follow(job_id) as feed:
        await store.transition(await store.job(job_id), JobStatus.CANCELLED, "not wanted")
        await store.removals.purge(job_id)
        broker.ring(job_id)
        async with asyncio.timeout(10):
            while not feed.closed:
                await feed.bell.listen().wait()
        assert isinstance(feed.purged, NotFound)


async def test_the_feed_of_no_job_is_not_found(tmp_path: Path) -> None:
    async with feeds_over(tmp_path) as (_, _, feeds, _):
        with pytest.raises(NotFound):
            async with feeds.follow(uuid4()):
                pass
