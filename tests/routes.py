"""Every route an app answers, however it came there."""

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
        }
        path = self.path
        for name, value in names.items():
            path = path.replace(name, value)
        assert "{" not in path, f"{self.path}: say above what may stand for its parameter"
        return path


def every_route(app: FastAPI) -> list[Entry]:
    """Routes of the API, WebSockets, pages, and a file of every folder that is served."""
    return list(_walk(app.routes))


def _walk(routes: list[BaseRoute]) -> Iterator[Entry]:
    for route in routes:
        if isinstance(route, APIRoute):
            yield Entry(route.path_format, frozenset(route.methods), route.endpoint)
        elif isinstance(route, APIWebSocketRoute):
            yield Entry(route.path_format, frozenset(), route.endpoint)
        elif isinstance(route, Mount):
            yield Entry(f"{route.path}/swagger-ui.css", frozenset({"GET", "HEAD"}))
        elif isinstance(route, Route):
            yield Entry(route.path_format, frozenset(route.methods or {"GET"}))
        else:
            yield from _walk(route.original_router.routes)  # type: ignore[attr-defined]
