"""Every route an app answers, however it came there."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import BaseRoute, Mount, Route

ANY_JOB = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Entry:
    """One way in."""

    path: str
    methods: frozenset[str]
    """Empty for a WebSocket."""
    endpoint: object = None
    """The function behind it; none where it is a file or a page of the framework."""

    @property
    def example(self) -> str:
        """An address it answers."""
        names = {
            "{id}": ANY_JOB,
            "{path}": "x",
            "{type}": "train_sae",
            "{name}": "NAME",
            "{sweep}": ANY_JOB,
            "{action}": "cancel",
            "{pipeline}": ANY_JOB,
            "{schedule}": ANY_JOB,
            "{format}": "csv",
            "{latent}": "0",
        }
        return re.sub(r"\{\w+\}", lambda found: names.get(found[0], "x"), self.path)


def every_route(app: FastAPI) -> list[Entry]:
    """Routes of the API, WebSockets, pages, and a file of every folder that is served."""
    return list(_walk(app.routes, ""))


def _walk(routes: list[BaseRoute], prefix: str) -> Iterator[Entry]:
    for route in routes:
        if isinstance(route, APIRoute):
            yield Entry(prefix + route.path_format, frozenset(route.methods), route.endpoint)
        elif isinstance(route, APIWebSocketRoute):
            yield Entry(prefix + route.path_format, frozenset(), route.endpoint)
        elif isinstance(route, Mount):
            yield Entry(f"{prefix}{route.path}/swagger-ui.css", frozenset({"GET", "HEAD"}))
        elif isinstance(route, Route):
            yield Entry(prefix + route.path_format, frozenset(route.methods or {"GET"}))
        else:
            included = route.include_context.prefix  # type: ignore[attr-defined]
            yield from _walk(route.original_router.routes, prefix + included)  # type: ignore[attr-defined]
