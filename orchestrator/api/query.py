"""Query parameters: those that many routes take, and that a route's others are refused.

A misspelt filter would quietly show everything.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated

from fastapi import Query
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection

from orchestrator.errors import InvalidInput
from orchestrator.store import MAX_STEP

Limit = Annotated[int, Query(ge=1, le=1000, description="Most that are answered with.")]
Offset = Annotated[int, Query(ge=0, le=MAX_STEP, description="How many are passed over.")]
Model = Annotated[str | None, Query(description="Only those about the model of this name or path, as submitted.")]
Dataset = Annotated[str | None, Query(description="Only those about the dataset of this name or path, as submitted.")]


async def known_query(connection: HTTPConnection) -> None:
    """A dependency of the whole app. Pages and probes may be asked with whatever one likes, and sockets read their own.

    Raises:
        InvalidInput: naming the parameter that the route does not take, and those that it does.
    """
    route = connection.scope.get("route")
    if not isinstance(route, APIRoute) or not connection.scope["path"].startswith("/api/"):
        return
    known = sorted(set(_names(route.dependant)))
    for name in connection.query_params:
        if name not in known:
            raise InvalidInput(
                f"{name}: there is no such query parameter here", field=name, suggestion=_suggestion(name, known)
            )


def _names(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        yield field.alias
    for other in dependant.dependencies:
        yield from _names(other)


def _suggestion(name: str, known: list[str]) -> str:
    if near := get_close_matches(name, known, n=1):
        return f"did you mean {near[0]}?"
    return f"it takes {', '.join(known)}" if known else "it takes none; leave it out"
