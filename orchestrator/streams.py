"""A job's log and events as a client reads them from WebSockets: where each was read to, and when to try again."""

import json
import random
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from orchestrator.errors import OrchestratorError
from orchestrator.views import EventView

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
    """Byte offset of the first byte of ``data`` within the attempt's log."""
    next_offset: int
    data: str
    """UTF-8 text; bytes that are not text show as U+FFFD."""


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


class LogStream:
    """A job's log from a byte offset of an attempt to the job's end."""

    def __init__(self, job_id: UUID, attempt: int, offset: int) -> None:
        self.ended = False
        self._job_id = job_id
        self._next = (attempt, offset)

    @property
    def path(self) -> str:
        attempt, offset = self._next
        return f"/api/jobs/{self._job_id}/logs?attempt={attempt}&offset={offset}"

    def receive(self, message: str | bytes) -> LogFrame | None:
        frame = _object(message)
        if frame.get("type") == "end":
            self.ended = True
        if frame.get("type") != "log":
            return None
        piece = LogFrame(frame["attempt"], frame["offset"], frame["next_offset"], frame["data"])
        if (piece.attempt, piece.offset) < self._next:
            return None
        self._next = (piece.attempt, piece.next_offset)
        return piece


class EventStream:
    """Events of one job, or of all, above an id. Only its reader ends it."""

    def __init__(self, job_id: UUID | None, after: int) -> None:
        self.ended = False
        self._job_id = job_id
        self._after = after

    @property
    def path(self) -> str:
        job = {} if self._job_id is None else {"job": str(self._job_id)}
        return "/api/events?" + urlencode(job | {"after": str(self._after)})

    def receive(self, message: str | bytes) -> EventView | None:
        frame = _object(message)
        if "id" not in frame:
            return None
        event = EventView.model_validate(frame)
        if event.id <= self._after:
            return None
        self._after = event.id
        return event


class Patience:
    """How long to keep trying: a few times at first, for a good while once there was a connection."""

    def __init__(self, retries: int, backoff_s: float, reconnect_for_s: float) -> None:
        self._retries = retries
        self._backoff_s = backoff_s
        self._reconnect_for_s = reconnect_for_s
        self._failures = 0
        self._lost_at: float | None = None
        self._was_connected = False

    def renew(self) -> None:
        """Something arrived."""
        self._failures = 0
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
        raise (error_kind(frame["code"]) or UnexpectedAnswer)(frame.get("message"))
    return frame
