from pathlib import Path

from orchestrator.access import Role
from orchestrator.api.auth import is_public, needs_of
from orchestrator.app import create_app
from orchestrator.settings import Settings
from tests.routes import Entry, every_route

FOR_READERS = {"/api/tickets", "/api/tokens"}
"""They are asked with POST because they answer with a secret; they change nothing that anybody owns."""


def _routes(tmp_path: Path) -> list[Entry]:
    return every_route(create_app(Settings(home=tmp_path)))


def test_every_route_declares_what_it_needs(tmp_path: Path) -> None:
    silent = [entry.path for entry in _routes(tmp_path) if entry.endpoint and needs_of(entry.endpoint) is None]
    assert not silent, "put @needs(Role....) from orchestrator.api.auth below their @router line"


def test_only_writers_change_anything(tmp_path: Path) -> None:
    for entry in _routes(tmp_path):
        declared = needs_of(entry.endpoint)
        if entry.methods - {"GET", "HEAD"} and entry.path not in FOR_READERS:
            assert declared is not None
            assert declared.role is not Role.READ, entry.path


def test_only_health_is_public(tmp_path: Path) -> None:
    public = {entry.path for entry in _routes(tmp_path) if is_public(entry.path)}
    assert public
    assert all(path.startswith("/health") for path in public)


def test_the_walk_over_the_routes_misses_none(tmp_path: Path) -> None:
    app = create_app(Settings(home=tmp_path))
    assert set(app.openapi()["paths"]) <= {entry.path for entry in every_route(app)}


def test_every_query_parameter_is_explained(tmp_path: Path) -> None:
    paths = create_app(Settings(home=tmp_path)).openapi()["paths"]
    asked = [
        (path, parameter)
        for path, methods in paths.items()
        for operation in methods.values()
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "query"
    ]
    assert asked
    assert [(path, parameter["name"]) for path, parameter in asked if "description" not in parameter] == []
