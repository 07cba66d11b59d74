"""Logs over HTTP. The cursor is (attempt, byte offset)."""

import base64
import re
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response
from starlette.responses import StreamingResponse

from orchestrator.access import Role
from orchestrator.api.auth import needs
from orchestrator.api.jobs import JobId
from orchestrator.api.state import Orchestrator
from orchestrator.errors import NotFound, RangeNotSatisfiable
from orchestrator.feed import Feeds
from orchestrator.job_log import Gap, Part, read_part, read_parts, read_tail
from orchestrator.store import MAX_STEP
from orchestrator.tail import whole_characters
from orchestrator.views import LogChunk, LogGap
from worker_image.contract.rundir import RunDir

router = APIRouter(prefix="/api", tags=["logs"])

BLOCK_BYTES = 1 << 20
MAX_CHUNK_BYTES = 16 << 20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

Encoding = Literal["utf-8", "base64"]


@router.get(
    "/jobs/{id}/logs",
    response_model=LogChunk,
    responses={200: {"description": "JSON, or with ``download`` the bytes.", "content": {"text/plain": {}}}},
)
@needs(Role.READ)
async def log(
    orchestrator: Orchestrator,
    job_id: JobId,
    tail: Annotated[int | None, Query(ge=0, le=1_000_000, description="Only the last lines.")] = None,
    offset: Annotated[int, Query(ge=0, le=MAX_STEP, description="First byte wanted.")] = 0,
    limit_bytes: Annotated[int, Query(ge=1, le=MAX_CHUNK_BYTES, description="Most bytes that are answered with.")] = 8
    << 20,
    attempt: Annotated[int | None, Query(ge=1, le=MAX_STEP, description="The newest when empty.")] = None,
    encoding: Annotated[Encoding, Query(description="base64 for the exact bytes in JSON.")] = "utf-8",
    download: Annotated[bool, Query(description="Answer with the exact bytes instead of JSON.")] = False,
    range: Annotated[str | None, Header(description="With download: bytes=first-last.")] = None,
) -> LogChunk | Response:
    """The log, or a part of it."""
    job = await orchestrator.store.job(job_id)
    if attempt is not None and attempt > job.attempts:
        raise NotFound(f"job {job_id} has no attempt {attempt}", field="attempt")
    number = attempt or job.attempts
    run_dir = RunDir.of(orchestrator.settings.home, job_id, number)
    if download:
        # A header is one line of ASCII, and the name is the submitter's.
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{job.name}-{number}.log")
        return await _download(orchestrator.feeds, run_dir, offset, range, name)
    if tail is not None:
        parts = await orchestrator.feeds.read(read_tail, run_dir, tail, limit_bytes)
    else:
        parts = await orchestrator.feeds.read(read_parts, run_dir, offset, limit_bytes)
    return _chunk(number, parts, encoding)


def _chunk(attempt: int, parts: Sequence[Part], encoding: Encoding) -> LogChunk:
    last = parts[-1]
    data = [part.gap.marker.encode() if part.gap and encoding == "utf-8" else part.data for part in parts]
    cut = 0
    if encoding == "utf-8" and last.data and not last.last:
        # A single character longer than the limit must still make progress.
        whole = whole_characters(last.data) or len(last.data)
        cut, data[-1] = len(last.data) - whole, last.data[:whole]
    joined = b"".join(data)
    return LogChunk(
        attempt=attempt,
        offset=parts[0].offset,
        next_offset=last.next_offset - cut,
        size_bytes=last.size_bytes,
        encoding=encoding,
        data=joined.decode(errors="replace") if encoding == "utf-8" else base64.b64encode(joined).decode(),
        gaps=[_gap(part.gap) for part in parts if part.gap],
    )


def _gap(gap: Gap) -> LogGap:
    return LogGap(
        offset=gap.offset, next_offset=gap.next_offset, bytes=gap.size_bytes, reason="quota", message=gap.marker
    )


async def _download(feeds: Feeds, run_dir: RunDir, offset: int, wanted: str | None, name: str) -> Response:
    """The bytes so far from ``offset`` on; of a log from which nothing was dropped, the range that is asked for."""
    first = await feeds.read(read_part, run_dir, offset, 1)
    end = first.size_bytes
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Accept-Ranges": "bytes"}
    status = 200
    whole = not await feeds.read(run_dir.dropped.exists)
    if whole and offset == 0 and (span := _span(wanted, end)) is not None:
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{end}"
        offset, end, status = span.start, span.stop, 206
    if whole:
        # What is dropped while it is sent ends the transfer early, and this tells.
        headers["Content-Length"] = str(max(end - offset, 0))
    body = _bytes(feeds, run_dir, offset, end, marked=not whole)
    return StreamingResponse(body, status, headers, media_type="text/plain; charset=utf-8")


def _span(wanted: str | None, size: int) -> range | None:
    """The bytes that a Range header asks for; none when it asks for nothing we know, as RFC 9110 wants it.

    Raises:
        RangeNotSatisfiable: the log does not reach there.
    """
    match = _RANGE.fullmatch(wanted or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if first and last and int(last) < start:
        return None
    if start >= size or start >= stop:
        raise RangeNotSatisfiable(f"the log has {size} bytes", field="Range", suggestion="ask for less, or again later")
    return range(start, stop)


async def _bytes(feeds: Feeds, run_dir: RunDir, start: int, end: int, *, marked: bool) -> AsyncIterator[bytes]:
    """The log's bytes in [start, end), however much longer it has grown since; with the marker in place of a gap."""
    while start < end:
        part = await feeds.read(read_part, run_dir, start, min(BLOCK_BYTES, end - start))
        if part.gap is not None and marked:
            yield part.gap.marker.encode()
        elif part.data:
            yield part.data
        else:
            return
        start = part.next_offset
