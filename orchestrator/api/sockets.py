"""What every WebSocket does: stream, notice that the viewer has gone, and tell it why it may not stay."""

import asyncio
from collections.abc import Awaitable
from uuid import UUID

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from orchestrator.api.error_views import error_content, error_view
from orchestrator.errors import InvalidInput, OrchestratorError

HEARTBEAT_S = 15.0
"""A stream that has nothing to send sends a heartbeat this often, so that a viewer can tell silence from a cut wire."""


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


def parse_flag(socket: WebSocket, name: str) -> bool:
    """A yes or no of the query, no when it is absent. Raises: InvalidInput."""
    text = socket.query_params.get(name, "false").lower()
    if text not in {"true", "false", "1", "0"}:
        raise InvalidInput(f"{name}: {text!r} is neither true nor false", field=name)
    return text in {"true", "1"}


async def deliver(socket: WebSocket, message: str | bytes, timeout_s: float) -> None:
    """Send one message, once the viewer has read enough of those before it.

    Raises:
        WebSocketDisconnect: it read nothing for ``timeout_s`` seconds, or has gone.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))
    except TimeoutError as error:
        raise WebSocketDisconnect(1011, "it read nothing") from error


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


def close_code(error: OrchestratorError) -> int:
    """The code that a WebSocket is closed with for an error: 4000 and its HTTP status, where a viewer can act on it."""
    return 4000 + error.status if error.status != 500 else 1011


async def refuse(socket: WebSocket, error: OrchestratorError) -> None:
    """Tell the viewer why, in a last frame, and close."""
    try:
        if socket.application_state is WebSocketState.CONNECTING:
            await socket.accept()
        await socket.send_json({"type": "error", **error_content(error_view(error))})
        await socket.close(close_code(error), error.code)
    except (WebSocketDisconnect, RuntimeError):
        # The viewer left before it could be told.
        return
