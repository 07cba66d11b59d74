import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from pydantic import ValidationError
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from orchestrator.api.auth import api_key, is_public
from orchestrator.app import create_app
from orchestrator.errors import SettingsError
from orchestrator.executors.fake import FakeEngine
from orchestrator.settings import Settings
from tests.integration.conftest import Orchestrator
from tests.routes import ANY_JOB, Entry, every_route

WRONG = ({}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic d3Jvbmc6d3Jvbmc="})


@pytest.fixture
def patient(home: Path, engine: FakeEngine) -> Iterator[Orchestrator]:
    """An orchestrator that looks at any number of wrong keys."""
    started = Orchestrator.start(home, engine, cpus=4, auth_failures_per_minute=1e9)
    yield started
    started.stop()


def _routes(tmp_path: Path) -> list[Entry]:
    return every_route(create_app(Settings(home=tmp_path)))


def test_every_route_and_method_but_health_is_closed_without_a_key(patient: Orchestrator, tmp_path: Path) -> None:
    routes = [entry for entry in _routes(tmp_path) if entry.methods]
    assert len(routes) > 20
    paths = {entry.example for entry in routes} | {"/", "/metrics", "/api", "/no/such/page", "/static-offline-docs/"}
    for path in sorted(paths):
        for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"):
            for headers in WRONG:
                answer = requests.request(method, patient.url + path, headers=headers, timeout=10)
                if is_public(path):
                    assert answer.status_code in (200, 405)
                    continue
                assert answer.status_code == 401, (method, path, headers)
                if method != "HEAD":
                    assert answer.json()["code"] == "unauthenticated"


@pytest.mark.parametrize("first", ['{"type": "auth", "ticket": "wrong"}', "not json", "[]", '{"ticket": 7}'])
def test_every_websocket_is_closed_without_a_key(patient: Orchestrator, tmp_path: Path, first: str) -> None:
    sockets = [entry.example for entry in _routes(tmp_path) if not entry.methods]
    assert len(sockets) >= 2
    for path in (*sockets, f"/api/events?job={ANY_JOB}", "/no/such/socket"):
        with connect(patient.url.replace("http", "ws") + path) as socket:
            socket.send(first)
            assert json.loads(socket.recv(5))["code"] == "unauthenticated"
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


def test_a_websocket_with_a_wrong_key_is_closed(orchestrator: Orchestrator) -> None:
    headers = {"Authorization": "Bearer wrong"}
    with connect(orchestrator.url.replace("http", "ws") + "/api/events", additional_headers=headers) as socket:
        assert json.loads(socket.recv(5))["code"] == "unauthenticated"


def test_a_preflight_is_answered_to_pages_that_may_call_and_to_no_others(orchestrator: Orchestrator) -> None:
    asked = {"Access-Control-Request-Method": "PUT", "Origin": "https://evil.example"}
    url = f"{orchestrator.url}/api/jobs"
    assert "Access-Control-Allow-Origin" not in requests.options(url, headers=asked, timeout=10).headers
    dashboard = asked | {"Origin": f"http://127.0.0.1:{orchestrator.settings.dashboard_port}"}
    assert requests.options(url, headers=dashboard, timeout=10).headers["Access-Control-Allow-Origin"]


def test_a_name_that_was_made_to_point_here_is_not_answered(orchestrator: Orchestrator) -> None:
    headers = {"X-API-Key": orchestrator.key, "Host": "evil.example:8000"}
    for path in ("/api/jobs", "/health", "/docs"):
        assert requests.get(orchestrator.url + path, headers=headers, timeout=10).status_code == 403


def test_a_page_of_strangers_opens_no_websocket(orchestrator: Orchestrator) -> None:
    ticket = orchestrator.client.ticket().ticket
    url = orchestrator.url.replace("http", "ws") + "/api/events"
    with connect(url, origin="https://evil.example") as socket:
        assert json.loads(socket.recv(5))["code"] == "forbidden"
    own = f"http://localhost:{orchestrator.settings.dashboard_port}"
    with connect(url, origin=own) as socket:  # type: ignore[arg-type]
        socket.send(json.dumps({"type": "auth", "ticket": ticket}))
        orchestrator.submit()
        assert json.loads(socket.recv(5))["type"] == "job_created"


def test_a_browser_may_give_a_key_as_its_password(orchestrator: Orchestrator) -> None:
    page = f"{orchestrator.url}/docs"
    refused = requests.get(page, headers={"Accept": "text/html"}, timeout=10)
    assert "Basic" in refused.headers["WWW-Authenticate"]
    assert requests.get(page, auth=("anyone", orchestrator.key), timeout=10).ok
    script = requests.get(page, headers={"Accept": "*/*"}, timeout=10)
    assert "Basic" not in script.headers["WWW-Authenticate"]


def test_an_address_that_guesses_is_not_listened_to_for_a_while(home: Path, engine: FakeEngine) -> None:
    own = Orchestrator.start(home, engine, cpus=4, auth_failures_per_minute=3, api_key="of-my-own")
    try:
        url = f"{own.url}/api/jobs"
        tries = [requests.get(url, headers={"X-API-Key": f"guess {n}"}, timeout=10) for n in range(4)]
        assert [answer.status_code for answer in tries] == [401, 401, 401, 429]
        assert 1 <= int(tries[-1].headers["Retry-After"]) <= 20
        assert requests.get(url, headers={"X-API-Key": own.key}, timeout=10).status_code == 429
        assert requests.get(f"{own.url}/health", timeout=10).ok
    finally:
        own.stop()


def test_a_key_that_cannot_be_guessed_is_always_listened_to(home: Path, engine: FakeEngine) -> None:
    generated = Orchestrator.start(home, engine, cpus=4, auth_failures_per_minute=1)
    try:
        url = f"{generated.url}/api/jobs"
        for _ in range(3):
            requests.get(url, headers={"X-API-Key": "guess"}, timeout=10)
        assert requests.get(url, headers={"X-API-Key": generated.key}, timeout=10).ok
    finally:
        generated.stop()


def test_what_is_too_large_is_refused_before_anything_else(orchestrator: Orchestrator) -> None:
    headers = {"X-API-Key": orchestrator.key}
    assert requests.get(f"{orchestrator.url}/api/jobs?q={'x' * 9000}", headers=headers, timeout=10).status_code == 414
    many = headers | {f"X-{number}": "x" for number in range(120)}
    assert requests.get(f"{orchestrator.url}/api/jobs", headers=many, timeout=10).status_code == 431


def test_every_answer_tells_browsers_to_be_careful(orchestrator: Orchestrator) -> None:
    for path in ("/health", "/api/jobs", "/no/such/page", "/docs"):
        answer = requests.get(orchestrator.url + path, headers={"X-API-Key": orchestrator.key}, timeout=10)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert ("script-src" in answer.headers["Content-Security-Policy"]) == (path == "/docs")


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
    # Naming its own job as well does not help.
    for query in ("", f"?job={mine}"):
        ticket = orchestrator.client.ticket(mine).ticket
        with connect(f"{orchestrator.url.replace('http', 'ws')}/api/jobs/{other}/logs{query}") as socket:
            socket.send(json.dumps({"type": "auth", "ticket": ticket}))
            assert json.loads(socket.recv(5))["code"] == "unauthenticated"


def test_pages_of_strangers_may_not_use_the_api(orchestrator: Orchestrator) -> None:
    headers = {"X-API-Key": orchestrator.key, "Origin": "https://evil.example"}
    assert requests.get(orchestrator.url + "/api/jobs", headers=headers, timeout=10).status_code == 403
    dashboard = {"X-API-Key": orchestrator.key, "Origin": f"http://127.0.0.1:{orchestrator.settings.dashboard_port}"}
    assert requests.get(orchestrator.url + "/api/jobs", headers=dashboard, timeout=10).status_code == 200


def test_the_api_page_needs_no_other_host(orchestrator: Orchestrator) -> None:
    headers = {"X-API-Key": orchestrator.key}
    page = requests.get(orchestrator.url + "/docs", headers=headers, timeout=10).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) >= 2
    for link in links:
        assert link.startswith("/")
        assert requests.get(orchestrator.url + link, headers=headers, timeout=10).ok


def test_the_key_is_made_once_in_a_file_only_its_owner_reads(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    assert settings.find_api_key() is None
    key = api_key(settings)
    assert stat.S_IMODE(settings.key_file.stat().st_mode) == 0o600
    assert api_key(settings) == key


def test_a_key_of_ones_own_is_used_instead(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, api_key="mine")
    assert api_key(settings) == "mine"
    assert not settings.key_file.exists()


def test_listening_in_public_without_auth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="without auth"):
        Settings(home=tmp_path, host="0.0.0.0", auth="off")


@pytest.mark.parametrize("key", ["short", "a" * 40])
def test_listening_in_public_with_a_key_that_can_be_guessed_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(SettingsError, match="guessed"):
        api_key(Settings(home=tmp_path, host="0.0.0.0", api_key=key))
    strong = "correct horse battery staple".replace(" ", "-")
    assert api_key(Settings(home=tmp_path, host="0.0.0.0", api_key=strong)) == strong


@pytest.mark.parametrize("key", ["ключ", "two words", "a\nb"])
def test_a_key_that_no_header_can_carry_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(SettingsError, match="no header"):
        api_key(Settings(home=tmp_path, api_key=key))
