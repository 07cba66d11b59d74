"""What the browser's components ask for, answered through the client.

A component asks when it needs a ticket for its WebSocket (kind ``ticket``) and, while it cannot get one open, for the
data itself (kind ``poll``).
"""

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.client import Client
from orchestrator.domain import TERMINAL

Answer = Callable[[Client, str, Mapping[str, Any]], dict[str, Any]]
"""(client, job id, question) -> reply, without its ``n``."""

FIRST_LOG_BYTES = 1_000_000
"""Most log shown when the terminal opens; older output is in the download."""
POLL_LOG_BYTES = 262_144
HISTORY_POINTS = 1000
"""Of each curve: about what a wide screen has pixels for, two points a bucket."""


def answer_terminal(client: Client, job_id: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """A ticket and where to start reading, or the log after the cursor."""
    cursor = question.get("cursor")
    reply: dict[str, Any] = {}
    if not cursor:
        cursor = reply["start"] = log_start(client, job_id)
    if question["kind"] == "ticket":
        reply["ticket"] = client.ticket(job_id).ticket
    else:
        reply["frames"] = log_frames(client, job_id, cursor["attempt"], cursor["offset"])
    return reply


def log_start(client: Client, job_id: str) -> dict[str, int]:
    """Attempt and byte offset from which the log shown is at most ``FIRST_LOG_BYTES`` long."""
    number = client.job(job_id).attempts
    room = FIRST_LOG_BYTES
    while number >= 1:
        size_bytes = client.logs(job_id, attempt=number, limit_bytes=1).size_bytes
        if size_bytes >= room or number == 1:
            skipped = max(0, size_bytes - room)
            return {"attempt": number, "offset": skipped, "skipped_bytes": skipped}
        room -= size_bytes
        number -= 1
    return {"attempt": 1, "offset": 0, "skipped_bytes": 0}


def log_frames(client: Client, job_id: str, attempt: int, offset: int) -> list[dict[str, Any]]:
    """What the log's WebSocket would send next: more of this attempt, the begin of the following one, or the end."""
    job = client.job(job_id)
    while attempt <= job.attempts:
        chunk = client.logs(job_id, attempt=attempt, offset=offset, limit_bytes=POLL_LOG_BYTES)
        if chunk.data:
            cursor = {"attempt": chunk.attempt, "offset": chunk.offset, "next_offset": chunk.next_offset}
            return [{"type": "log", **cursor, "data": chunk.data}]
        attempt, offset = attempt + 1, 0
    return [{"type": "end", "status": job.status.value}] if job.status in TERMINAL else []


def answer_curves(client: Client, job_id: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """A ticket, with the measurements so far unless the component has them."""
    reply: dict[str, Any] = {}
    if question.get("history"):
        series = client.metrics(job_id, max_points=HISTORY_POINTS)
        reply["history"] = [{"step": point.step, "values": point.values} for point in series.items]
        reply["after"] = series.after
        reply["checkpoints"] = [checkpoint.step for checkpoint in client.checkpoints(job_id)]
    if question["kind"] == "ticket":
        reply["ticket"] = client.ticket(job_id).ticket
    return reply
