"""The first to look at a request (ASGI): refuses what is too large or too often, and finds out for whom it speaks.

Nothing behind it is reached without a principal, whatever route it is: pages, files and unknown paths as well.
"""

import asyncio
import json
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from orchestrator.access import Principal, acting
from orchestrator.api.auth import Gate, is_public
from orchestrator.api.failures import error_response
from orchestrator.api.sockets import refuse
from orchestrator.errors import AddressTooLong, HeadersTooLarge, OrchestratorError, Unauthenticated

MAX_ADDRESS_BYTES: Final = 8192
MAX_HEADER_BYTES: Final = 16_384
MAX_HEADERS: Final = 100
AUTH_WAIT_S: Final = 10.0

_EVERY: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Headers of every answer."""
_CLOSED: Final = "default-src 'none'; frame-ancestors 'none'; sandbox"
_OWN_SCRIPTS: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'"
)
"""For the page that shows the API. What jobs leave is data, whatever it calls itself, and gets the closed one."""


class Guard:
    """Outermost middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, _with_headers(scope, send))
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        gate: Gate = scope["app"].state.orchestrator.gate
        try:
            _check_size(scope)
            gate.origins.check(connection)
            if is_public(scope["path"]):
                await self._app(scope, receive, send)
                return
            principal = gate.admit(connection)
            if principal is None:
                raise Unauthenticated(
                    suggestion="send the header 'Authorization: Bearer <key>'; the machine's key is in <home>/api-key"
                )
        except OrchestratorError as error:
            response = error_response(error)
            if error.status == 401 and "text/html" in connection.headers.get("accept", ""):
                # A person's browser then asks for a password, which may be a key; one that a page calls from does not.
                response.headers.append("WWW-Authenticate", 'Basic realm="saeforge: an API key as the password"')
            await response(scope, receive, send)
            return
        await self._on_behalf(principal, scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = _accepting_once(send)
        socket = WebSocket(scope, receive, send)
        await socket.receive()
        gate: Gate = scope["app"].state.orchestrator.gate
        try:
            _check_size(scope)
            gate.origins.check(socket)
            principal = gate.admit(socket) or await self._by_ticket(gate, socket)
            async with gate.stay(principal):
                await self._on_behalf(principal, scope, _from_the_start(receive), send)
        except OrchestratorError as error:
            await refuse(socket, error)
        except WebSocketDisconnect:
            return

    async def _by_ticket(self, gate: Gate, socket: WebSocket) -> Principal:
        """Let a browser in by the ticket in its first message.

        Accepted before that: it cannot read why a connection was refused, only what came over it.

        Raises:
            Unauthenticated: it has none.
        """
        await socket.accept()
        try:
            async with asyncio.timeout(AUTH_WAIT_S):
                message = json.loads(await socket.receive_text())
        except (TimeoutError, ValueError, KeyError) as error:
            raise Unauthenticated(suggestion='send {"type": "auth", "ticket": "..."} first') from error
        return gate.redeem(message.get("ticket") if isinstance(message, dict) else None, socket)

    async def _on_behalf(self, principal: Principal, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["principal"] = principal
        with acting(principal):
            await self._app(scope, receive, send)


def _check_size(scope: Scope) -> None:
    """Raises: AddressTooLong, HeadersTooLarge."""
    address_bytes = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if address_bytes > MAX_ADDRESS_BYTES:
        raise AddressTooLong(f"the address is longer than {MAX_ADDRESS_BYTES} bytes")
    header_bytes = sum(len(name) + len(value) for name, value in scope["headers"])
    if len(scope["headers"]) > MAX_HEADERS or header_bytes > MAX_HEADER_BYTES:
        raise HeadersTooLarge(f"there are more than {MAX_HEADERS} headers, or {MAX_HEADER_BYTES} bytes of them")


def _with_headers(scope: Scope, send: Send) -> Send:
    """Send with the headers that every answer has."""
    page = scope["path"].startswith(("/docs", "/static-offline-docs"))

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _EVERY.items():
                headers.setdefault(name, value)
            headers.setdefault("Content-Security-Policy", _OWN_SCRIPTS if page else _CLOSED)
            if not page:
                headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending


def _from_the_start(receive: Receive) -> Receive:
    """A socket's messages for who comes after the guard: at first that somebody connects."""
    heard: list[Message] = [{"type": "websocket.connect"}]

    async def receiving() -> Message:
        return heard.pop() if heard else await receive()

    return receiving


def _accepting_once(send: Send) -> Send:
    """Send, where accepting a socket twice does no harm: the guard may have to, and every route does."""
    accepted = False

    async def sending(message: Message) -> None:
        nonlocal accepted
        if message["type"] == "websocket.accept":
            if accepted:
                return
            accepted = True
        await send(message)

    return sending
