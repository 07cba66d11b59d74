"""Events over WebSocket."""

import asyncio
from contextlib import suppress
from uuid import UUID

from fastapi import APIRouter
from starlette.websockets import WebSocket

from orchestrator.access import Principal, Role
from orchestrator.api.auth import needs
from orchestrator.api.sockets import converse, parse_count, parse_job_id, while_there
from orchestrator.api.state import Orchestrator, State, Who
from orchestrator.views import EventView

router = APIRouter(prefix="/api", tags=["events"])

PAGE = 500
RECHECK_S = 5.0


@router.websocket("/events")
@needs(Role.READ)
async def follow(socket: WebSocket, orchestrator: Orchestrator, who: Who) -> None:
    """Every stored event after ``?after=``, of ``?job=`` or of all jobs, one a frame, while the viewer stays."""

    async def work() -> None:
        job = socket.query_params.get("job")
        job_id = parse_job_id(job, "job") if job else None
        if job_id is not None:
            await orchestrator.store.job(job_id)
        await while_there(socket, _stream(socket, orchestrator, who, job_id, parse_count(socket, "after", 0)))

    await converse(socket, work())


async def _stream(socket: WebSocket, orchestrator: State, who: Principal, job_id: UUID | None, after: int) -> None:
    while not orchestrator.broker.closed:
        news = orchestrator.broker.listen()
        events = await orchestrator.store.events(after=after, job_id=job_id, limit=PAGE, who=who)
        for event in events:
            await socket.send_text(EventView.model_validate(event).model_dump_json())
            after = event.id
        if not events:
            # The bell is enough; looking again now and then costs little and forgives a missed ring.
            with suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), RECHECK_S)
