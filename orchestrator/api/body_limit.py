"""Refuses request bodies that are too large, whether or not they say so beforehand."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.failures import error_response
from orchestrator.errors import TooLarge


class BodyLimit:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await error_response(self._error())(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._error()
            return message

        async def unless_too_large(message: Message) -> None:
            # The app answers that it could not read the body; why it could not is told below.
            if seen <= self._max_bytes:
                await send(message)

        await self._app(scope, counted, unless_too_large)
        if seen > self._max_bytes:
            await error_response(self._error())(scope, receive, send)

    def _error(self) -> TooLarge:
        return TooLarge(
            f"the request body is larger than {self._max_bytes} bytes",
            suggestion="send less, or raise SAEFORGE_MAX_BODY_BYTES",
        )
