"""Every error leaves in one shape: ``{code, message, details: {field?, suggestion?}, timestamp}``."""

import logging
import math
from datetime import UTC, datetime

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from orchestrator.api.error_views import error_content, error_view
from orchestrator.api.sockets import refuse
from orchestrator.errors import OrchestratorError, RateLimited
from orchestrator.views import ErrorDetails, ErrorView

logger = logging.getLogger(__name__)

_CODES = {401: "unauthenticated", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}

_NEXT = {404: "GET /docs lists what there is", 405: "the header Allow names the methods; GET /docs lists what there is"}


def error_response(error: OrchestratorError) -> JSONResponse:
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return _answer(error.status, error_view(error), headers)


def install(app: FastAPI) -> None:
    """Teach the app to answer every error in that shape."""

    @app.exception_handler(OrchestratorError)
    async def _known(connection: Request | WebSocket, error: OrchestratorError) -> JSONResponse | None:
        if isinstance(connection, WebSocket):
            await refuse(connection, error)
            return None
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        # "body", "query" and "path" say where it stood, not what it is called.
        where = first["loc"][1:] if first["type"] != "json_invalid" else ()
        field = ".".join(str(part) for part in where) or "body"
        view = ErrorView(
            code="invalid_input",
            message=f"{field}: {first['msg']}",
            details=ErrorDetails(field=field, suggestion=_suggestion(first["type"])),
            timestamp=datetime.now(UTC),
        )
        return _answer(400, view)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        view = ErrorView(
            code=_CODES.get(error.status_code, "http_error"),
            message=str(error.detail),
            details=ErrorDetails(suggestion=_NEXT.get(error.status_code)),
            timestamp=datetime.now(UTC),
        )
        return _answer(error.status_code, view, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(OrchestratorError("something went wrong inside; the orchestrator's log has the details"))


def _suggestion(kind: str) -> str:
    if kind.startswith("uuid"):
        return "a job id is a UUID such as 7f9c24e8-3b12-4fef-91e0-5a3c8d5b2f10"
    if kind == "extra_forbidden":
        return "remove it; GET /docs lists what the body takes"
    if kind == "json_invalid":
        return "send valid JSON"
    if kind == "missing":
        return "give it; GET /docs lists what is needed"
    return "GET /docs tells what it may be"


def _answer(status: int, view: ErrorView, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(error_content(view), status, headers)
