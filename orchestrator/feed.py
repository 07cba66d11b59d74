"""One job's log as all of its viewers follow it: where the job stands is asked once, and what they all want next is
read and put into a frame once.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from orchestrator.broker import Bell, Broker
from orchestrator.domain import TERMINAL, JobStatus
from orchestrator.errors import NotFound
from orchestrator.growth import Growth
from orchestrator.job_log import read_part
from orchestrator.store import Store
from orchestrator.tail import whole_characters
from worker_image.contract.rundir import RunDir

Result = TypeVar("Result")

FRAME_BYTES = 65_536
READERS = 4
"""Threads that read logs; a slow disk holds up no other work, and no more files than this are open at once."""
_AT_REST = TERMINAL | {JobStatus.PAUSED, JobStatus.QUEUED}
"""Nothing of a job runs in these."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a viewer is sent, and where it goes on."""

    message: str | bytes | None
    """None while there is nothing to send."""
    next_offset: int
    size_bytes: int
    """The log's length when it was read."""


class Feed:
    """The log of one job."""

    def __init__(self, job_id: UUID, home: Path, pool: ThreadPoolExecutor) -> None:
        self.bell = Bell()
        """Rings when the log may have grown or the job stands elsewhere."""
        self.attempts = 0
        self.status = JobStatus.QUEUED
        self.purged: NotFound | None = None
        """Set when the job was purged."""
        self.closed = False
        """Whether nothing more will be told."""
        self.viewers = 0
        self._job_id, self._home, self._pool = job_id, home, pool
        self._reading: dict[tuple[int, int, bool, bool], asyncio.Future[Frame]] = {}

    def log(self, attempt: int) -> Path:
        return RunDir.of(self._home, self._job_id, attempt).log

    def over(self, attempt: int) -> bool:
        """Whether nothing is written to this attempt's log any more."""
        return attempt < self.attempts or self.status in _AT_REST

    async def frame(self, attempt: int, offset: int, *, binary: bool) -> Frame:
        """What comes at ``offset`` of an attempt's log. Viewers who ask for the same at once get the same."""
        over = self.over(attempt)
        wanted = (attempt, offset, binary, over)
        reading = self._reading.get(wanted)
        if reading is None:
            run_dir = RunDir.of(self._home, self._job_id, attempt)
            read = partial(frame_of, run_dir, attempt, offset, binary=binary, over=over)
            reading = asyncio.get_running_loop().run_in_executor(self._pool, read)
            self._reading[wanted] = reading
            reading.add_done_callback(lambda _: self._reading.pop(wanted))
        return await asyncio.shield(reading)


class Feeds:
    """The feeds of the jobs that anyone follows."""

    def __init__(self, *, store: Store, broker: Broker, growth: Growth, home: Path) -> None:
        self._store, self._broker, self._growth, self._home = store, broker, growth, home
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="log")
        self._feeds: dict[UUID, Feed] = {}
        self._tending: dict[UUID, asyncio.Task[None]] = {}

    @property
    def viewers(self) -> int:
        """How many follow any log."""
        return sum(feed.viewers for feed in self._feeds.values())

    @asynccontextmanager
    async def follow(self, job_id: UUID) -> AsyncIterator[Feed]:
        """The feed of this job, shared with whoever else follows it. Raises: NotFound."""
        job = await self._store.job(job_id)
        feed = self._feeds.get(job_id)
        if feed is None:
            feed = self._feeds[job_id] = Feed(job_id, self._home, self._pool)
            feed.attempts, feed.status = job.attempts, job.status
            self._tending[job_id] = asyncio.create_task(self._tend(job_id, feed), name=f"feed {job_id}")
        feed.viewers += 1
        try:
            yield feed
        finally:
            feed.viewers -= 1
            if not feed.viewers:
                del self._feeds[job_id]
                tending = self._tending.pop(job_id)
                tending.cancel()
                with suppress(asyncio.CancelledError):
                    await tending

    async def read(self, reader: Callable[..., Result], *args: object) -> Result:
        """Call a blocking reader of logs on one of the threads for it."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, reader, *args)

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)

    async def _tend(self, job_id: UUID, feed: Feed) -> None:
        """Keep what the feed knows of the job true, and watch the log that is being written."""
        watched = 0
        with ExitStack() as watch:
            try:
                while not self._broker.closed:
                    # In this order: whatever happens after the look wakes us again.
                    news = self._broker.listen(job_id)
                    job = await self._store.job(job_id)
                    if (job.attempts, job.status) != (feed.attempts, feed.status):
                        feed.attempts, feed.status = job.attempts, job.status
                        feed.bell.ring()
                    current = 0 if feed.over(feed.attempts) else feed.attempts
                    if current != watched:
                        watch.close()
                        if current:
                            watch.enter_context(self._growth.watch(feed.log(current), feed.bell.ring))
                        watched = current
                    await news.wait()
            except NotFound as error:
                feed.purged = error
            finally:
                feed.closed = True
                feed.bell.ring()


def frame_of(run_dir: RunDir, attempt: int, offset: int, *, binary: bool, over: bool) -> Frame:
    """Read what comes at ``offset``. Blocking.

    While the attempt runs, a character that is half written waits for its other half.
    """
    part = read_part(run_dir, offset, FRAME_BYTES)
    if offset > part.size_bytes:
        return Frame(None, offset, part.size_bytes)
    place = {"attempt": attempt, "offset": offset, "next_offset": part.next_offset}
    if part.gap is not None:
        skipped = place | {"reason": "quota", "bytes": part.gap.size_bytes, "message": part.gap.marker}
        return Frame(json.dumps({"type": "skipped", **skipped}), part.next_offset, part.size_bytes)
    data = part.data
    if len(data) == FRAME_BYTES or (part.last and not over):
        data = data[: whole_characters(data)]
    if not data:
        return Frame(None, offset, part.size_bytes)
    place["next_offset"] = offset + len(data)
    if binary:
        message: str | bytes = json.dumps({"type": "log", **place}).encode() + b"\n" + data
    else:
        message = json.dumps({"type": "log", **place, "data": data.decode(errors="replace")})
    return Frame(message, offset + len(data), part.size_bytes)
