"""Logs over HTTP and WebSocket. The cursor is (attempt, byte offset)."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path as FilePath
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from starlette.responses import StreamingResponse
from starlette.websockets import WebSocket

from orchestrator.access import Role
from orchestrator.api.auth import needs
from orchestrator.api.jobs import JobId
from orchestrator.api.sockets import converse, parse_count, parse_job_id, while_there
from orchestrator.api.state import Orchestrator, State
from orchestrator.domain import TERMINAL, JobStatus
from orchestrator.errors import InvalidInput, NotFound
from orchestrator.store import MAX_STEP
from orchestrator.tail import Piece, read_last_lines, read_piece, whole_characters
from orchestrator.views import LogChunk
from worker_image.contract.rundir import RunDir

router = APIRouter(prefix="/api", tags=["logs"])

FRAME_BYTES = 65_536
BUSY_POLL_S = 0.02
IDLE_POLL_S = 0.1
MAX_CHUNK_BYTES = 16 << 20


@router.get("/jobs/{id}/logs", response_model=LogChunk)
@needs(Role.READ)
async def log(
    orchestrator: Orchestrator,
    job_id: JobId,
    tail: Annotated[int | None, Query(ge=0, le=1_000_000, description="Only the last lines.")] = None,
    offset: Annotated[int, Query(ge=0, le=MAX_STEP, description="First byte wanted.")] = 0,
    limit_bytes: Annotated[int, Query(ge=1, le=MAX_CHUNK_BYTES)] = 8 << 20,
    attempt: Annotated[int | None, Query(ge=1, le=MAX_STEP, description="The newest when empty.")] = None,
    download: Annotated[bool, Query(description="Answer with the exact bytes instead of JSON.")] = False,
) -> LogChunk | Response:
    """The log, or a part of it."""
    job = await orchestrator.store.job(job_id)
    if attempt is not None and attempt > job.attempts:
        raise NotFound(f"job {job_id} has no attempt {attempt}", field="attempt")
    number = attempt or job.attempts
    path = RunDir.of(orchestrator.settings.home, job_id, number).log
    if download:
        # A header is one line of ASCII, and the name is the submitter's.
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{job.name}-{number}.log")
        size = (await asyncio.to_thread(read_piece, path, 0, 1)).size_bytes
        return StreamingResponse(
            _bytes(path, offset, size),
            media_type="text/plain; charset=utf-8",
            headers={
                "Content-Disposition": f'attachment; filename="{name}"',
                "Content-Length": str(max(size - offset, 0)),
            },
        )
    if tail is not None:
        piece = await asyncio.to_thread(read_last_lines, path, tail, limit_bytes)
    else:
        piece = await asyncio.to_thread(read_piece, path, offset, limit_bytes)
    return _chunk(number, piece)


def _chunk(attempt: int, piece: Piece) -> LogChunk:
    data = piece.data
    if piece.next_offset < piece.size_bytes:
        # A single character longer than the limit must still make progress.
        data = data[: whole_characters(data) or len(data)]
    return LogChunk(
        attempt=attempt,
        offset=piece.offset,
        next_offset=piece.offset + len(data),
        size_bytes=piece.size_bytes,
        data=data.decode(errors="replace"),
    )


async def _bytes(path: FilePath, start: int, end: int) -> AsyncIterator[bytes]:
    """The file's bytes in [start, end), however much longer it has grown since."""
    while start < end:
        piece = await asyncio.to_thread(read_piece, path, start, min(FRAME_BYTES * 16, end - start))
        if not piece.data:
            return
        yield piece.data
        start = piece.next_offset


@router.websocket("/jobs/{id}/logs")
@needs(Role.READ)
async def follow(socket: WebSocket, orchestrator: Orchestrator, id: str) -> None:
    """Frames ``{type: log, attempt, offset, next_offset, data}``, then ``{type: end, status}`` when the job has ended.

    Goes through the job's attempts in order, from ``?attempt=`` (1) and ``?offset=`` (0) on, and waits for the next
    attempt while the job is paused.
    """

    async def work() -> None:
        job_id = parse_job_id(id)
        cursor = max(parse_count(socket, "attempt", 1), 1), parse_count(socket, "offset", 0)
        await while_there(socket, _stream(socket, orchestrator, job_id, *cursor))

    await converse(socket, work())


async def _stream(socket: WebSocket, orchestrator: State, job_id: UUID, attempt: int, offset: int) -> None:
    while not orchestrator.broker.closed:
        # In this order: whatever the job's status tells of is then in the file already.
        news = orchestrator.broker.listen()
        job = await orchestrator.store.job(job_id)
        if attempt > max(job.attempts, 1):
            raise NotFound(f"job {job_id} has no attempt {attempt}", field="attempt")
        over = attempt < job.attempts or job.status in TERMINAL or job.status is JobStatus.PAUSED
        path = RunDir.of(orchestrator.settings.home, job_id, attempt).log
        offset = await _send_available(socket, path, attempt, offset, over=over)
        if attempt < job.attempts:
            attempt, offset = attempt + 1, 0
        elif job.status in TERMINAL:
            await socket.send_json({"type": "end", "status": job.status})
            return
        else:
            poll_s = BUSY_POLL_S
            while not news.is_set() and not orchestrator.broker.closed:
                sent = offset
                offset = await _send_available(socket, path, attempt, offset, over=False)
                poll_s = BUSY_POLL_S if offset > sent else min(poll_s * 1.5, IDLE_POLL_S)
                await asyncio.sleep(poll_s)


async def _send_available(socket: WebSocket, path: FilePath, attempt: int, offset: int, *, over: bool) -> int:
    """Send what the log holds from ``offset`` on; return where it ends.

    While the attempt runs, a character that is half written waits for its other half.
    """
    while True:
        piece = await asyncio.to_thread(read_piece, path, offset, FRAME_BYTES)
        if offset > piece.size_bytes:
            raise InvalidInput(
                f"offset: {offset} is beyond the log of attempt {attempt} ({piece.size_bytes} bytes)", field="offset"
            )
        last = piece.next_offset == piece.size_bytes
        data = piece.data if over and last else piece.data[: whole_characters(piece.data)]
        if not data:
            return offset
        await socket.send_json(
            {
                "type": "log",
                "attempt": attempt,
                "offset": offset,
                "next_offset": offset + len(data),
                "data": data.decode(errors="replace"),
            }
        )
        offset += len(data)
        if last:
            return offset
