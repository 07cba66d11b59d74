"""Every request observed: given an id, timed, counted, and told in the log."""

import logging
import re
import time
from typing import Final
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.instruments import Instruments
from orchestrator.journal import about

logger = logging.getLogger("orchestrator.access")

REQUEST_ID: Final = "X-Request-ID"
_REQUEST_ID: Final = REQUEST_ID.lower().encode()
_ACCEPTABLE: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SUBMITS: Final = frozenset({"/api/jobs", "/api/jobs/{type}"})
NO_ROUTE: Final = "none"
"""Stands for every path that no route has: labels must not grow with what strangers ask for."""


class Observed:
    """ASGI middleware, the outermost one."""

    def __init__(self, app: ASGIApp, instruments: Instruments) -> None:
        self._app, self._instruments = app, instruments

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        with about(request_id=request_id):
            serve = self._http if scope["type"] == "http" else self._websocket
            await serve(scope, receive, send, request_id)

    async def _http(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        began = time.perf_counter()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (_REQUEST_ID, request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = route_of(scope)
        self._instruments.requests.labels(method, route, str(status)).inc()
        self._instruments.request_seconds.labels(method, route).observe(seconds)
        if method == "POST" and status == 201 and route in _SUBMITS:
            self._instruments.submit_seconds.observe(seconds)
        # The template and not the path, and no query: either may hold what is nobody's business.
        logger.debug("%s %s %d in %.1f ms", method, route, status, seconds * 1000)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        counted: str | None = None

        def count() -> None:
            """As soon as there is a route: one with a ticket is accepted before it is let in."""
            nonlocal counted
            if counted is None and (route := route_of(scope)) != NO_ROUTE:
                counted = route
                self._instruments.viewers.labels(counted).inc()
                logger.debug("viewer of %s came", counted)

        async def awaited() -> Message:
            count()
            return await receive()

        async def noted(message: Message) -> None:
            count()
            if message["type"] == "websocket.accept":
                message["headers"] = [*message.get("headers", ()), (_REQUEST_ID, request_id.encode())]
            elif message["type"] == "websocket.send" and counted is not None:
                text, data = message.get("text"), message.get("bytes")
                self._instruments.sent_bytes.labels(counted).inc(len((data or b"") if text is None else text.encode()))
            await send(message)

        try:
            await self._app(scope, awaited, noted)
        finally:
            if counted is not None:
                self._instruments.viewers.labels(counted).dec()
                logger.debug("viewer of %s left", counted)


def route_of(scope: Scope) -> str:
    """The template of the route that answers, e.g. ``/api/jobs/{id}``."""
    return str(getattr(scope.get("route"), "path", NO_ROUTE))


def _request_id(scope: Scope) -> str:
    """The caller's own id of its request, if it is one that fits into a log; else a new one."""
    given = next((value for name, value in scope["headers"] if name == _REQUEST_ID), b"")
    return given.decode() if _ACCEPTABLE.fullmatch(given) else uuid4().hex
