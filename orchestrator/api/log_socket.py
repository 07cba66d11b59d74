"""Logs over WebSocket. The cursor is (attempt, byte offset)."""

import asyncio
import json
import time
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.websockets import WebSocket

from orchestrator.access import Role
from orchestrator.api.auth import needs
from orchestrator.api.sockets import (
    HEARTBEAT_S,
    converse,
    deliver,
    parse_count,
    parse_flag,
    parse_job_id,
    while_there,
)
from orchestrator.api.state import Orchestrator
from orchestrator.domain import TERMINAL
from orchestrator.errors import InvalidInput, NotFound
from orchestrator.feed import Feed

router = APIRouter(prefix="/api", tags=["logs"])

LAG_PATIENCE_S = 2.0
"""How long a viewer may be too far behind before it is moved forward."""


@router.websocket("/jobs/{id}/logs")
@needs(Role.READ)
async def follow(socket: WebSocket, orchestrator: Orchestrator, id: str) -> None:
    """Frames ``{type: log, attempt, offset, next_offset, data}``, then ``{type: end, status}`` when the job has ended.

    Goes through the job's attempts in order, from ``?attempt=`` (1) and ``?offset=`` (0) on, and waits for the next
    attempt while the job is paused. With ``?encoding=binary`` a log frame is a binary message: the same object without
    ``data`` on one line, then the exact bytes. ``{type: skipped, reason, attempt, offset, next_offset, bytes}`` stands
    for bytes that are not sent: the quota dropped them, the run cut its log, or the viewer is slow and asked for
    ``?skip=true``.
    """

    async def work() -> None:
        job_id = parse_job_id(id)
        encoding = socket.query_params.get("encoding", "utf-8")
        if encoding not in {"utf-8", "binary"}:
            raise InvalidInput(f"encoding: {encoding!r} is neither utf-8 nor binary", field="encoding")
        lag_mb = orchestrator.settings.viewer_lag_mb if parse_flag(socket, "skip") else None
        async with orchestrator.feeds.follow(job_id) as feed:
            viewer = Viewer(
                socket,
                feed,
                attempt=max(parse_count(socket, "attempt", 1), 1),
                offset=parse_count(socket, "offset", 0),
                binary=encoding == "binary",
                timeout_s=orchestrator.settings.viewer_timeout_s,
                lag_bytes=None if lag_mb is None else lag_mb << 20,
            )
            await while_there(socket, viewer.follow())

    await converse(socket, work())


@dataclass
class Viewer:
    """One who follows a log, and how far it got."""

    socket: WebSocket
    feed: Feed
    attempt: int
    offset: int
    binary: bool
    timeout_s: float
    lag_bytes: int | None
    """How far behind it wants to be moved forward; never when empty."""
    _behind_since: float | None = None
    _known_bytes: int = 0
    """How long the log was at the last look."""

    async def follow(self) -> None:
        """Send the log until the job has ended, the viewer's own attempt first.

        Raises:
            NotFound: there is no such attempt, or the job was purged.
            InvalidInput: the attempt's log does not reach to the offset.
        """
        if self.attempt > max(self.feed.attempts, 1):
            raise NotFound(f"there is no attempt {self.attempt}", field="attempt", suggestion="leave it out")
        while not self.feed.closed:
            # In this order: whatever the job's status tells of is then in the file already.
            news = self.feed.bell.listen()
            attempts, status = self.feed.attempts, self.feed.status
            await self._send_available()
            if self.attempt < attempts:
                self.attempt, self.offset, self._known_bytes = self.attempt + 1, 0, 0
            elif status in TERMINAL:
                await self._send({"type": "end", "status": status})
                return
            else:
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await news.wait()
                except TimeoutError:
                    await self._send({"type": "heartbeat"})
        if self.feed.purged is not None:
            raise self.feed.purged

    async def _send_available(self) -> None:
        """Send what the log holds from the offset on."""
        while True:
            frame = await self.feed.frame(self.attempt, self.offset, binary=self.binary)
            if self.offset > frame.size_bytes:
                await self._cut(frame.size_bytes)
                continue
            self._known_bytes = frame.size_bytes
            if frame.message is None:
                return
            await deliver(self.socket, frame.message, self.timeout_s)
            self.offset = frame.next_offset
            if self._too_far_behind(frame.size_bytes):
                assert self.lag_bytes is not None
                await self._skip("slow", frame.size_bytes - self.lag_bytes // 4)
            elif self.offset >= frame.size_bytes:
                return

    def _too_far_behind(self, size: int) -> bool:
        if self.lag_bytes is None or size - self.offset <= self.lag_bytes:
            self._behind_since = None
            return False
        self._behind_since = self._behind_since or time.monotonic()
        return time.monotonic() - self._behind_since > LAG_PATIENCE_S

    async def _cut(self, size: int) -> None:
        """The log ends before the viewer's offset: the viewer's mistake at first, the run's own doing later."""
        if self.offset > self._known_bytes:
            raise InvalidInput(
                f"offset: {self.offset} is beyond the log of attempt {self.attempt} ({size} bytes)",
                field="offset",
                suggestion="begin at 0, or at the next_offset of the last frame",
            )
        self._known_bytes = size
        await self._skip("cut", size)

    async def _skip(self, reason: str, to: int) -> None:
        skipped = {"reason": reason, "attempt": self.attempt, "offset": self.offset, "next_offset": to}
        await self._send({"type": "skipped", **skipped, "bytes": max(0, to - self.offset)})
        self.offset = to
        self._behind_since = None

    async def _send(self, frame: dict[str, object]) -> None:
        await deliver(self.socket, json.dumps(frame), self.timeout_s)
