"""A job's log and events as a client reads them from WebSockets: where each was read to, and when to try again."""

import base64
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from orchestrator.domain import TERMINAL
from orchestrator.errors import OrchestratorError
from orchestrator.views import EventPage, EventView, JobDetail, LogChunk

LONGEST_DELAY_S = 10.0
"""No wait between two tries is longer."""

Received = TypeVar("Received", covariant=True)


class UnexpectedAnswer(OrchestratorError):
    """The orchestrator answered with something this client does not know."""

    status = 502
    code = "unexpected_answer"


@dataclass(frozen=True, slots=True)
class LogFrame:
    """A piece of a job's log. ``(attempt, next_offset)`` is where to go on."""

    attempt: int
    offset: int
    """Byte offset of the first byte of ``content`` within the attempt's log."""
    next_offset: int
    content: bytes
    """The exact bytes; none where bytes were skipped."""
    skipped: str = ""
    """The line that stands for bytes that are not there, or not sent, between the offsets."""

    @property
    def data(self) -> str:
        """What a person reads: UTF-8 text, in which bytes that are not text show as U+FFFD; or the ``skipped`` line."""
        return self.skipped or self.content.decode(errors="replace")


def frames_of(chunk: LogChunk) -> list[LogFrame]:
    """The frames in a chunk of ``encoding`` base64."""
    content, at = base64.b64decode(chunk.data), chunk.offset
    frames = []
    for gap in chunk.gaps:
        kept, content = content[: gap.offset - at], content[gap.offset - at :]
        frames.append(LogFrame(chunk.attempt, at, gap.offset, kept))
        frames.append(LogFrame(chunk.attempt, gap.offset, gap.next_offset, b"", gap.message))
        at = gap.next_offset
    frames.append(LogFrame(chunk.attempt, at, chunk.next_offset, content))
    return [frame for frame in frames if frame.next_offset > frame.offset]


Get = Callable[[str, Mapping[str, Any]], bytes]
"""Answers a path and a query over HTTP."""


class Stream(Protocol[Received]):
    """What is read from a WebSocket, and how far it was read."""

    ended: bool

    @property
    def path(self) -> str:
        """Where to connect to get what comes next."""
        ...

    def receive(self, message: str | bytes) -> Received | None:
        """What a message holds, if it holds something not seen yet."""
        ...

    def poll(self, get: Get) -> Sequence[Received]:
        """What comes next, asked for over HTTP; nothing once all is read."""
        ...


class LogStream:
    """A job's log from a byte offset of an attempt to the job's end."""

    def __init__(self, job_id: UUID, attempt: int, offset: int, *, skip: bool = False) -> None:
        """With ``skip`` a reader that falls far behind is moved forward."""
        self.ended = False
        self._job_id = job_id
        self._next = (attempt, offset)
        self._skip = skip

    @property
    def path(self) -> str:
        attempt, offset = self._next
        skip = "&skip=true" if self._skip else ""
        return f"/api/jobs/{self._job_id}/logs?attempt={attempt}&offset={offset}&encoding=binary{skip}"

    def receive(self, message: str | bytes) -> LogFrame | None:
        head, content = message, None
        if isinstance(message, bytes):
            head, _, content = message.partition(b"\n")
        frame = _object(head)
        match frame.get("type"):
            case "log":
                exact = frame["data"].encode() if content is None else content
                return self._taken(LogFrame(frame["attempt"], frame["offset"], frame["next_offset"], exact))
            case "skipped":
                piece = LogFrame(frame["attempt"], frame["offset"], frame["next_offset"], b"", _skipped_line(frame))
                if frame.get("reason") == "cut" and (piece.attempt, piece.offset) == self._next:
                    # The log is shorter than it was: what comes now has offsets that were seen before.
                    self._next = (piece.attempt, piece.next_offset)
                    return piece
                return self._taken(piece)
            case "end":
                self.ended = True
        return None

    def poll(self, get: Get) -> list[LogFrame]:
        attempt, offset = self._next
        # In this order: whatever the job's status tells of is then in the log already.
        job = JobDetail.model_validate_json(get(f"/api/jobs/{self._job_id}", {}))
        if job.attempts:
            query = {"attempt": attempt, "offset": offset, "encoding": "base64"}
            chunk = LogChunk.model_validate_json(get(f"/api/jobs/{self._job_id}/logs", query))
            frames = [frame for item in frames_of(chunk) if (frame := self._taken(item)) is not None]
            if frames:
                return frames
            if attempt < job.attempts:
                self._next = (attempt + 1, 0)
                return self.poll(get)
        self.ended = job.status in TERMINAL
        return []

    def _taken(self, piece: LogFrame) -> LogFrame | None:
        if (piece.attempt, piece.offset) < self._next:
            return None
        self._next = (piece.attempt, piece.next_offset)
        return piece


def _skipped_line(frame: Mapping[str, Any]) -> str:
    if frame.get("message"):
        return str(frame["message"])
    if frame.get("reason") == "cut":
        return "[saeforge: the job cut its log here]\n"
    return f"\n[saeforge: {frame.get('bytes', 0)} bytes skipped here: they came faster than they were read]\n"


class EventStream:
    """Events of one job, or of all, above an id. Only its reader ends it."""

    def __init__(self, job_id: UUID | None, after: int | Literal["latest"], types: Sequence[str] = ()) -> None:
        self.ended = False
        self._job_id = job_id
        self._after = after
        self._types = {"types": ",".join(types)} if types else {}

    @property
    def path(self) -> str:
        job = {} if self._job_id is None else {"job": str(self._job_id)}
        return "/api/events?" + urlencode(job | self._types | {"after": str(self._after)})

    def receive(self, message: str | bytes) -> EventView | None:
        frame = _object(message)
        if frame.get("type") == "heartbeat":
            self._passed(frame.get("after", 0))
        if "id" not in frame:
            return None
        event = EventView.model_validate(frame)
        return event if self._passed(event.id) else None

    def poll(self, get: Get) -> list[EventView]:
        path = "/api/events" if self._job_id is None else f"/api/jobs/{self._job_id}/events"
        page = EventPage.model_validate_json(get(path, self._types | {"after": self._after}))
        fresh = [event for event in page.items if self._passed(event.id)]
        self._passed(page.next_after)
        return fresh

    def _passed(self, event_id: int) -> bool:
        """Whether this is the first time that so high an id is seen."""
        if self._after != "latest" and event_id <= self._after:
            return False
        self._after = event_id
        return True


class Patience:
    """How long to keep trying: a few times at first, for a good while once there was a connection."""

    def __init__(self, retries: int, backoff_s: float, reconnect_for_s: float) -> None:
        self._retries = retries
        self._backoff_s = backoff_s
        self._reconnect_for_s = reconnect_for_s
        self._failures = 0
        self._lost_at: float | None = None
        self._was_connected = False

    @property
    def failures(self) -> int:
        """Tries in a row that brought nothing."""
        return self._failures

    def renew(self, *, polled: bool = False) -> None:
        """Something arrived; when it was asked for, connecting still fails."""
        self._failures = self._failures if polled else 0
        self._lost_at = None
        self._was_connected = True

    def next_delay_s(self, now: float) -> float | None:
        """Seconds to wait before trying again; none when it is time to give up."""
        if self._lost_at is None:
            self._lost_at = now
        if self._was_connected:
            if now - self._lost_at > self._reconnect_for_s:
                return None
        elif self._failures >= self._retries:
            return None
        self._failures += 1
        return delay_s(self._backoff_s, self._failures - 1)


def delay_s(first_s: float, failures: int) -> float:
    """Seconds before the next try: exponential, half of it random so that many clients do not come back at once."""
    # The exponent is bounded too: a float cannot hold 2**1024.
    longest_s = min(LONGEST_DELAY_S, first_s * (1 << min(failures, 16)))
    return longest_s * random.uniform(0.5, 1)


def error_kind(code: str) -> type[OrchestratorError] | None:
    """The error class with this code; of a parent and a child that share it, the parent."""
    tree: list[type[OrchestratorError]] = [OrchestratorError]
    for kind in tree:
        if kind.code == code:
            return kind
        tree.extend(kind.__subclasses__())
    return None


def _object(message: str | bytes) -> dict[str, Any]:
    """One WebSocket message.

    Raises:
        OrchestratorError: it is an error frame.
        UnexpectedAnswer: it is not an object of JSON.
    """
    try:
        frame = json.loads(message)
    except ValueError:
        frame = None
    if not isinstance(frame, dict):
        raise UnexpectedAnswer("the stream sent something that is not a JSON object")
    if frame.get("type") == "error" and "code" in frame:
        details = frame.get("details") or {}
        kind = error_kind(frame["code"]) or UnexpectedAnswer
        raise kind(frame.get("message"), field=details.get("field"), suggestion=details.get("suggestion"))
    return frame
