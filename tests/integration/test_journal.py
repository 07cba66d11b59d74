"""The log of a real orchestrator at its most talkative."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from websockets.sync.client import connect

from tests.machine import Machine
from tests.waiting import until

KEY = "a-key-of-my-own-for-this-test-0123456789"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "home", "process")
    made.environment |= {
        "SAEFORGE_LOG_LEVEL": "debug",
        "SAEFORGE_LOG_FORMAT": "json",
        "SAEFORGE_API_KEY": KEY,
    }
    made.start()
    yield made
    made.end()


def entries(machine: Machine) -> list[dict[str, object]]:
    """Every line of the log but those that were said before it was set up."""
    return [json.loads(line) for line in machine.log.read_text().splitlines() if line.startswith("{")]


def test_requests_are_told_with_their_id_and_no_secret_ever(machine: Machine) -> None:
    bearer = {"Authorization": f"Bearer {KEY}"}
    mine = {**bearer, "X-Request-ID": "mine-1"}
    answer = requests.get(f"{machine.url}/api/jobs?q=hunter2hunter2", headers=mine, timeout=10)
    assert answer.headers["X-Request-ID"] == "mine-1"
    wrong = requests.get(f"{machine.url}/api/jobs", headers={"X-API-Key": "wrong-key-wrong-key"}, timeout=10)
    assert len(wrong.headers["X-Request-ID"]) == 32
    refused = requests.get(f"{machine.url}/health", headers={"X-Request-ID": "not\tmine"}, timeout=10)
    assert refused.headers["X-Request-ID"] != "not\tmine"
    ticket = requests.post(f"{machine.url}/api/tickets", json={}, headers=bearer, timeout=10).json()["ticket"]
    with connect(machine.url.replace("http", "ws") + "/api/events") as socket:
        socket.send(json.dumps({"type": "auth", "ticket": ticket}))
        socket.ping().wait(10)
    until(lambda: "viewer of /api/events left" in machine.log.read_text(), "the viewer is told", machine.log.read_text)
    messages = [str(each["message"]) for each in entries(machine) if each.get("request_id") == "mine-1"]
    assert messages[0].startswith("GET /api/jobs 200 ")
    log = machine.log.read_text()
    for secret in (KEY, ticket, "wrong-key", "hunter2", "Bearer"):
        assert secret not in log


def test_every_line_is_one_object_with_the_same_fields(machine: Machine) -> None:
    requests.get(f"{machine.url}/health", timeout=10)
    until(lambda: any(each["logger"] == "orchestrator.access" for each in entries(machine)), "a request is told")
    told = entries(machine)
    assert all({"ts", "level", "logger", "message"} <= each.keys() for each in told)
    assert any(str(each["logger"]).startswith("uvicorn") for each in told)
