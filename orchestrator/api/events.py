"""Events over HTTP and WebSocket. The cursor is the event's id."""

import asyncio
import json
from contextlib import suppress
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.websockets import WebSocket

from orchestrator.access import Principal, Role
from orchestrator.api.auth import needs
from orchestrator.api.jobs import JobId
from orchestrator.api.sockets import HEARTBEAT_S, converse, deliver, parse_count, parse_job_id, while_there
from orchestrator.api.state import Orchestrator, State, Who
from orchestrator.event_names import Kind, kinds
from orchestrator.event_pages import Wanted
from orchestrator.store import MAX_STEP
from orchestrator.views import EventPage, EventView

router = APIRouter(prefix="/api", tags=["events"])

After = Annotated[
    Annotated[int, Query(ge=0, le=MAX_STEP)] | Literal["latest"],
    Query(description="Only events above this id; latest for those that are still to come."),
]
Limit = Annotated[int, Query(ge=1, le=10_000, description="Most that are answered with.")]
Types = Annotated[str, Query(description="Stored types or public names, separated by commas; all when empty.")]


@router.get("/jobs/{id}/events")
@needs(Role.READ)
async def of_job(
    orchestrator: Orchestrator, who: Who, job_id: JobId, after: After = 0, limit: Limit = 1000, types: Types = ""
) -> EventPage:
    """What happened to a job, in order; pass ``next_after`` as ``after`` to go on."""
    await orchestrator.store.job(job_id)
    return await _page(orchestrator, who, job_id, after, limit, types)


@router.get("/events")
@needs(Role.READ)
async def of_all(
    orchestrator: Orchestrator, who: Who, after: After = 0, limit: Limit = 1000, types: Types = ""
) -> EventPage:
    """What happened to all jobs, in order; pass ``next_after`` as ``after`` to go on."""
    return await _page(orchestrator, who, None, after, limit, types)


async def _page(
    orchestrator: State, who: Principal, job_id: UUID | None, after: int | Literal["latest"], limit: int, types: str
) -> EventPage:
    chosen = _chosen(types)
    # In this order: what is stored in between is above this id, or on the page.
    newest = await orchestrator.event_pages.newest()
    if after == "latest":
        return EventPage(items=[], next_after=newest)
    found = await orchestrator.store.events(after=after, job_id=job_id, limit=limit, who=who, kinds=chosen)
    seen = found[-1].id if found else after
    return EventPage(
        items=[EventView.model_validate(item) for item in found],
        next_after=seen if len(found) == limit else max(seen, newest),
    )


@router.websocket("/events")
@needs(Role.READ)
async def follow(socket: WebSocket, orchestrator: Orchestrator, who: Who) -> None:
    """Every stored event after ``?after=``, of ``?job=`` or of all jobs, one a frame, while the viewer stays.

    ``?after=latest`` begins with what is still to come, ``?types=`` names the stored types or public names wanted.
    ``{type: heartbeat, after}`` comes when nothing else does: up to that id there is nothing more to be had.
    """

    async def work() -> None:
        job = socket.query_params.get("job")
        job_id = parse_job_id(job, "job") if job else None
        if job_id is not None:
            await orchestrator.store.job(job_id)
        chosen = _chosen(socket.query_params.get("types", ""))
        latest = socket.query_params.get("after") == "latest"
        after = await orchestrator.event_pages.newest() if latest else parse_count(socket, "after", 0)
        if latest:
            # So that a viewer that is cut off before the first event knows where it began.
            await _beat(socket, orchestrator, after)
        await while_there(socket, _stream(socket, orchestrator, Wanted.of(who, job_id, chosen), after))

    await converse(socket, work())


async def _stream(socket: WebSocket, orchestrator: State, wanted: Wanted, after: int) -> None:
    loop = asyncio.get_running_loop()
    beat_at = loop.time() + HEARTBEAT_S
    while not orchestrator.broker.closed:
        news = orchestrator.broker.listen(wanted.job_id)
        page = await orchestrator.event_pages.page(wanted, after)
        for message in page.messages:
            await deliver(socket, message, orchestrator.settings.viewer_timeout_s)
        after = page.next_after
        if page.messages:
            beat_at = loop.time() + HEARTBEAT_S
        elif loop.time() >= beat_at:
            await _beat(socket, orchestrator, after)
            beat_at = loop.time() + HEARTBEAT_S
        if not page.full:
            # The bell is enough; looking again at every heartbeat costs little and forgives a missed ring.
            with suppress(TimeoutError):
                async with asyncio.timeout_at(beat_at):
                    await news.wait()


async def _beat(socket: WebSocket, orchestrator: State, after: int) -> None:
    frame = json.dumps({"type": "heartbeat", "after": after})
    await deliver(socket, frame, orchestrator.settings.viewer_timeout_s)


def _chosen(types: str) -> tuple[Kind, ...]:
    return kinds(word for part in types.split(",") if (word := part.strip()))
