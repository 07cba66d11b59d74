"""What every WebSocket does: stream, notice that the viewer has gone, and tell it why it may not stay."""

import asyncio
from collections.abc import Awaitable
from uuid import UUID

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from orchestrator.errors import InvalidInput, OrchestratorError

CLOSE_CODES: dict[int, int] = {400: 4400, 401: 4401, 403: 4403, 404: 4404, 429: 4429}
"""HTTP status of an error -> the code a WebSocket is closed with."""


def parse_job_id(text: str, field: str = "id") -> UUID:
    """Raises: InvalidInput."""
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidInput(f"{field}: {text!r} is not a UUID", field=field) from error


def parse_count(socket: WebSocket, name: str, default: int) -> int:
    """A whole number of the query, not negative. Raises: InvalidInput."""
    text = socket.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidInput(f"{name}: {text!r} is not a whole number from 0", field=name)
    return int(text)


async def converse(socket: WebSocket, work: Awaitable[None]) -> None:
    """Do ``work`` until it is done or the viewer goes; an error is told to the viewer in a last frame.

    Accepted first of all: a browser cannot read why a connection was refused, only what came over it.
    """
    await socket.accept()
    try:
        await work
    except OrchestratorError as error:
        await refuse(socket, error)
    except WebSocketDisconnect:
        return
    else:
        await socket.close()


async def while_there(socket: WebSocket, stream: Awaitable[None]) -> None:
    """Await ``stream``; give up as soon as the viewer is gone."""
    streaming = asyncio.ensure_future(stream)
    leaving = asyncio.ensure_future(_gone(socket))
    try:
        await asyncio.wait({streaming, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if streaming.done():
            await streaming
        else:
            raise WebSocketDisconnect
    finally:
        streaming.cancel()
        leaving.cancel()
        await asyncio.gather(streaming, leaving, return_exceptions=True)


async def _gone(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def refuse(socket: WebSocket, error: OrchestratorError) -> None:
    """Tell the viewer why, in a last frame, and close."""
    try:
        if socket.application_state is WebSocketState.CONNECTING:
            await socket.accept()
        await socket.send_json(
            {"type": "error", "code": error.code, "message": error.message, "suggestion": error.suggestion}
        )
        await socket.close(CLOSE_CODES.get(error.status, 1011), error.code)
    except (WebSocketDisconnect, RuntimeError):
        # The viewer left before it could be told.
        return
