import json
import re
import stat
from pathlib import Path

import pytest
import requests
from fastapi.routing import APIRoute, APIWebSocketRoute
from pydantic import ValidationError
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from orchestrator.api.auth import api_key
from orchestrator.app import create_app
from orchestrator.errors import SettingsError
from orchestrator.executors.fake import FakeEngine
from orchestrator.settings import Settings
from tests.integration.conftest import Orchestrator

PUBLIC = {"/health"}
JOB = "00000000-0000-0000-0000-000000000000"


def _routes(tmp_path: Path) -> list[tuple[str, str]]:
    """Every (method, path) the app answers to, read off its own OpenAPI schema."""
    schema = create_app(Settings(home=tmp_path)).openapi()
    return [(method.upper(), path) for path, methods in schema["paths"].items() for method in methods]


def test_every_route_but_health_is_closed_without_a_key(orchestrator: Orchestrator, tmp_path: Path) -> None:
    routes = _routes(tmp_path)
    assert len(routes) > 20
    for method, path in routes:
        url = orchestrator.url + path.replace("{id}", JOB).replace("{path}", "x").replace("{type}", "train_sae")
        for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}):
            answer = requests.request(method, url, headers=headers, timeout=10)
            if path in PUBLIC:
                assert answer.status_code == 200
            else:
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), (method, path)


@pytest.mark.parametrize("path", [f"/api/jobs/{JOB}/logs", "/api/events", f"/api/events?job={JOB}"])
@pytest.mark.parametrize("first", ['{"type": "auth", "ticket": "wrong"}', "not json", "[]", '{"ticket": 7}'])
def test_every_websocket_is_closed_without_a_key(orchestrator: Orchestrator, path: str, first: str) -> None:
    with connect(orchestrator.url.replace("http", "ws") + path) as socket:
        socket.send(first)
        assert json.loads(socket.recv(5))["code"] == "unauthenticated"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


def test_the_walk_over_websockets_knows_them_all(tmp_path: Path) -> None:
    found = set[str]()

    def walk(routes: list[object]) -> None:
        for route in routes:
            if isinstance(route, APIWebSocketRoute):
                found.add(route.path)
            elif not isinstance(route, APIRoute):
                walk(getattr(getattr(route, "original_router", route), "routes", []))

    walk(create_app(Settings(home=tmp_path)).routes)
    assert found == {"/api/jobs/{id}/logs", "/api/events"}


def test_without_auth_a_page_whose_name_resolves_to_loopback_gets_no_answer(home: Path, engine: FakeEngine) -> None:
    home.mkdir()
    (home / "api-key").write_text("none is asked for\n")
    orchestrator = Orchestrator.start(home, engine, cpus=4, auth="off")
    try:
        url = f"{orchestrator.url}/api/jobs"
        assert requests.get(url, timeout=10).status_code == 200
        assert requests.get(url, headers={"Host": "evil.example:8000"}, timeout=10).status_code == 403
    finally:
        orchestrator.stop()


def test_a_ticket_opens_one_socket_once(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    ticket = orchestrator.client.ticket(job_id).ticket
    url = f"{orchestrator.url.replace('http', 'ws')}/api/events?job={job_id}"
    with connect(url) as socket:
        socket.send(json.dumps({"type": "auth", "ticket": ticket}))
        assert json.loads(socket.recv(5))["type"] == "job_created"
    with connect(url) as socket:
        socket.send(json.dumps({"type": "auth", "ticket": ticket}))
        assert json.loads(socket.recv(5))["code"] == "unauthenticated"


def test_a_ticket_for_one_job_opens_no_other(orchestrator: Orchestrator) -> None:
    mine, other = orchestrator.submit(), orchestrator.submit()
    ticket = orchestrator.client.ticket(mine).ticket
    with connect(f"{orchestrator.url.replace('http', 'ws')}/api/jobs/{other}/logs") as socket:
        socket.send(json.dumps({"type": "auth", "ticket": ticket}))
        assert json.loads(socket.recv(5))["code"] == "unauthenticated"


def test_pages_of_strangers_may_not_use_the_api(orchestrator: Orchestrator) -> None:
    headers = {"X-API-Key": orchestrator.key, "Origin": "https://evil.example"}
    assert requests.get(orchestrator.url + "/api/jobs", headers=headers, timeout=10).status_code == 403
    dashboard = {"X-API-Key": orchestrator.key, "Origin": f"http://127.0.0.1:{orchestrator.settings.dashboard_port}"}
    assert requests.get(orchestrator.url + "/api/jobs", headers=dashboard, timeout=10).status_code == 200


def test_the_api_page_needs_no_other_host(orchestrator: Orchestrator) -> None:
    page = requests.get(orchestrator.url + "/docs", timeout=10).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) >= 2
    for link in links:
        assert link.startswith("/")
        assert requests.get(orchestrator.url + link, timeout=10).ok


def test_the_key_is_made_once_in_a_file_only_its_owner_reads(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    key, new = api_key(settings)
    assert new
    assert stat.S_IMODE(settings.key_file.stat().st_mode) == 0o600
    assert api_key(settings) == (key, False)


def test_a_key_of_ones_own_is_used_instead(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, api_key="mine")
    assert api_key(settings) == ("mine", False)
    assert not settings.key_file.exists()


def test_listening_in_public_without_auth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="without auth"):
        Settings(home=tmp_path, host="0.0.0.0", auth="off")


@pytest.mark.parametrize("key", ["ключ", "two words", "a\nb"])
def test_a_key_that_no_header_can_carry_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(SettingsError, match="no header"):
        api_key(Settings(home=tmp_path, api_key=key))
