"""Keys, what they may do, and how far they reach."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import pytest
import requests
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from orchestrator.access import Role
from orchestrator.api.auth import is_public, needs_of
from orchestrator.app import create_app
from orchestrator.client import Client
from orchestrator.errors import Forbidden, InvalidInput, NotFound, OrchestratorError, StateConflict, Unauthenticated
from orchestrator.executors.fake import FakeEngine
from orchestrator.gpus import Gpu, GpuProcess
from orchestrator.settings import Settings
from tests.integration.conftest import Orchestrator
from tests.integration.test_system import look_afresh, show
from tests.routes import every_route
from tests.waiting import until

SECRET = "a secret of more than thirty-two bytes"
CONTAINER = {"image": "busybox", "command": ["run"]}


@contextmanager
def _as(orchestrator: Orchestrator, key: str) -> Iterator[Client]:
    with Client(orchestrator.url, key, timeout_s=10, retries=0) as client:
        yield client


@contextmanager
def _holder(orchestrator: Orchestrator, role: str, owner: str | None = None, **scope: object) -> Iterator[Client]:
    """Somebody with a key of their own."""
    made = orchestrator.client.create_key("theirs", role=role, owner=owner, **scope)  # type: ignore[arg-type]
    with _as(orchestrator, made.key) as client:
        yield client


def _socket(orchestrator: Orchestrator, path: str, key: str) -> ClientConnection:
    url = orchestrator.url.replace("http", "ws") + path
    return connect(url, additional_headers={"Authorization": f"Bearer {key}"})


def _last_word(socket: ClientConnection) -> tuple[int, str]:
    """With what the socket is closed, whatever comes before."""
    try:
        while True:
            socket.recv(10)
    except ConnectionClosed as closed:
        return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (0, "")


@pytest.mark.parametrize("role", ["read", "write"])
def test_a_key_is_denied_every_route_that_needs_a_mightier_one(
    orchestrator: Orchestrator, tmp_path: Path, role: str
) -> None:
    key = orchestrator.client.create_key("theirs", role=role).key
    denied = 0
    for entry in every_route(create_app(Settings(home=tmp_path))):
        declared = needs_of(entry.endpoint)
        for method in entry.methods:
            answer = requests.request(
                method, orchestrator.url + entry.example, headers={"X-API-Key": key}, json={}, timeout=10
            )
            mightier = declared is not None and not Role(role).covers(declared.role)
            assert (answer.status_code == 403) == mightier, (method, entry.path, answer.text)
            denied += mightier
    assert denied >= (10 if role == "read" else 3)


def test_a_scoped_key_is_denied_what_concerns_everybody(orchestrator: Orchestrator, tmp_path: Path) -> None:
    with _holder(orchestrator, "write", "alice") as alice:
        for entry in every_route(create_app(Settings(home=tmp_path))):
            declared = needs_of(entry.endpoint)
            if declared is not None and declared.whole and not is_public(entry.path):
                for method in entry.methods:
                    headers = {"X-API-Key": alice.api_key or ""}
                    answer = requests.request(method, orchestrator.url + entry.example, headers=headers, timeout=10)
                    assert answer.status_code == 403, (method, entry.path)


@pytest.mark.parametrize("scope", [{"owner": "alice"}, {"owner": None, "types": ["container"]}])
def test_the_jobs_of_others_are_in_no_answer_to_a_scoped_key(
    orchestrator: Orchestrator, tmp_path: Path, scope: dict[str, Any]
) -> None:
    """Walks what there is to read, so a new route that shows jobs of all owners fails here."""
    show(orchestrator, Gpu("GPU-a", 0, "H200", 8000, 1000))
    hidden = orchestrator.train(owner="bob", name="bobs-secret-plan", tags=["bobs-tag"])
    run = orchestrator.run_of(hidden)
    run.pids = {4242}
    processes = (GpuProcess(4242, "bobs-trainer"), GpuProcess(4243, "bobs-game"))
    show(orchestrator, Gpu("GPU-a", 0, "H200", 8000, 1000, processes=processes))
    orchestrator.client.set_secret("BOBS_TOKEN", "bobs-value", owner="bobs-own")
    orchestrator.client.set_owner("bobs-own", max_queued=7)
    own = orchestrator.submit(owner="alice", name="alices-plan")
    with _holder(orchestrator, "write", **scope) as alice:
        headers = {"X-API-Key": alice.api_key or ""}
        seen = 0
        for entry in every_route(create_app(Settings(home=tmp_path))):
            if "GET" not in entry.methods:
                continue
            for job_id in (hidden, own):
                path = entry.example.replace("00000000-0000-0000-0000-000000000000", job_id)
                answer = requests.get(orchestrator.url + path, headers=headers, timeout=10)
                assert "bobs-" not in answer.text, path
                assert "BOBS_TOKEN" not in answer.text, path
                assert hidden in path or hidden not in answer.text, path
                seen += "alices-plan" in answer.text
                if "{id}" in entry.path and job_id == hidden:
                    assert answer.status_code in (403, 404), path
                    assert hidden not in answer.text.replace(f"there is no job {hidden}", "")
        assert seen >= 2


def test_the_status_tells_a_scoped_key_of_its_own_jobs_and_counts_the_others(orchestrator: Orchestrator) -> None:
    show(orchestrator, Gpu("GPU-a", 0, "H200", 8000, 1000))
    orchestrator.reaches(orchestrator.train(owner="bob"), "running")
    for _ in range(4):
        orchestrator.submit(owner="bob")
    own = orchestrator.submit(owner="alice")
    until(lambda: UUID(own) in orchestrator.state.scheduler.waits, "alice's job waits")
    with _holder(orchestrator, "read", "alice") as alice:
        status = alice.system_status()
        assert (status.gpus[0].leased_by, status.gpus[0].leased_by_others) == ([], 1)
        assert status.home is None
        assert {name: count for name, count in status.jobs.items() if count} == {"queued": 1}
        assert sum(status.queue.by_reason.values()) == 1
        assert (status.queue.running_attempts, status.queue.begun_last_hour) == (0, 0)
        orchestrator.does(look_afresh(orchestrator))
        assert "attempts_running" not in alice.system_history().traces
    everything = orchestrator.client.system_status()
    assert (len(everything.gpus[0].leased_by), everything.gpus[0].leased_by_others) == (1, 0)
    assert everything.home == str(orchestrator.settings.home)


def test_a_scoped_key_can_do_nothing_to_the_jobs_of_others(orchestrator: Orchestrator, tmp_path: Path) -> None:
    hidden = orchestrator.submit(owner="bob")
    orchestrator.reaches(hidden, "running")
    with _holder(orchestrator, "write", "alice") as alice:
        for entry in every_route(create_app(Settings(home=tmp_path))):
            for method in entry.methods & {"POST", "PUT", "PATCH", "DELETE"}:
                if "{id}" in entry.path:
                    url = orchestrator.url + entry.path.replace("{id}", hidden)
                    headers = {"X-API-Key": alice.api_key or ""}
                    answer = requests.request(method, url, headers=headers, json={}, timeout=10)
                    assert answer.status_code in (403, 404), (method, entry.path)
    after = orchestrator.client.job(hidden)
    assert (after.status, after.intent, after.commands) == ("running", "run", [])


def test_a_job_beyond_reach_looks_like_one_that_never_was(orchestrator: Orchestrator) -> None:
    hidden = orchestrator.submit(owner="bob")
    with _holder(orchestrator, "read", "alice") as alice:
        with pytest.raises(NotFound) as beyond:
            alice.job(hidden)
        with pytest.raises(NotFound) as never:
            alice.job("00000000-0000-0000-0000-000000000000")
    assert str(beyond.value).replace(hidden, "") == str(never.value).replace("00000000-0000-0000-0000-000000000000", "")


def test_what_a_scoped_key_submits_is_its_owners(orchestrator: Orchestrator) -> None:
    with _holder(orchestrator, "write", "alice", types=["container"]) as alice:
        job = alice.submit("container", CONTAINER)
        assert job.owner == "alice"
        assert [item.id for item in alice.jobs().items] == [job.id]
        assert alice.cancel(job.id).intent == "cancel"
        with pytest.raises(Forbidden) as refused:
            alice.submit("container", CONTAINER, owner="bob")
        assert refused.value.field == "owner"
        with pytest.raises(Forbidden) as refused:
            alice.submit("train-sae", {"model": "m", "dataset": "d"})
        assert refused.value.field == "type"
    assert orchestrator.client.submit("container", CONTAINER).owner == "default"


def test_an_idempotency_key_finds_no_job_of_another_owner(orchestrator: Orchestrator) -> None:
    first = orchestrator.client.submit("container", CONTAINER, owner="alice", idempotency_key="k")
    with _holder(orchestrator, "write", "alice") as alice, _holder(orchestrator, "write", "bob") as bob:
        own = alice.submit("container", CONTAINER, idempotency_key="k")
        assert own.id == alice.submit("container", CONTAINER, idempotency_key="k").id
        assert len({first.id, own.id, bob.submit("container", CONTAINER, idempotency_key="k").id}) == 3


def test_the_stream_of_all_events_holds_those_within_reach(orchestrator: Orchestrator) -> None:
    bobs, alices = orchestrator.submit(owner="bob"), orchestrator.submit(owner="alice")
    with _holder(orchestrator, "read", "alice") as alice:
        events = alice.follow_events()
        assert {str(next(events).job_id) for _ in range(2)} == {alices}
        events.close()
        stream = alice.follow_events(bobs)
        with pytest.raises(NotFound):
            next(stream)
        log = alice.follow_log(bobs)
        with pytest.raises(NotFound):
            next(log)


def test_a_ticket_reaches_no_further_than_the_key_it_was_got_with(orchestrator: Orchestrator) -> None:
    bobs, alices = orchestrator.submit(owner="bob"), orchestrator.submit(owner="alice")
    with _holder(orchestrator, "read", "alice") as alice:
        with pytest.raises(NotFound):
            alice.ticket(bobs)
        for path, first in ((f"/api/jobs/{bobs}/logs", "not_found"), ("/api/events", "job_created")):
            with connect(orchestrator.url.replace("http", "ws") + path) as socket:
                socket.send(json.dumps({"type": "auth", "ticket": alice.ticket().ticket}))
                frame = json.loads(socket.recv(5))
                assert first in (frame.get("code"), frame.get("type"))
                assert frame.get("job_id") in (None, alices)


def test_a_revoked_key_opens_nothing_and_its_open_streams_end(orchestrator: Orchestrator) -> None:
    made = orchestrator.client.create_key("theirs", role="read")
    with _as(orchestrator, made.key) as holder, _socket(orchestrator, "/api/events", made.key) as socket:
        ticket = holder.ticket().ticket
        orchestrator.submit()
        assert json.loads(socket.recv(5))["type"] == "job_created"
        assert orchestrator.client.revoke_key(made.id).revoked_at is not None
        assert _last_word(socket) == (4401, "unauthenticated")
        with pytest.raises(Unauthenticated):
            holder.me()
        with connect(orchestrator.url.replace("http", "ws") + "/api/events") as late:
            late.send(json.dumps({"type": "auth", "ticket": ticket}))
            assert json.loads(late.recv(5))["code"] == "unauthenticated"


def test_a_stream_ends_when_its_key_expires(orchestrator: Orchestrator) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=4)  # long enough to connect on a busy machine
    made = orchestrator.client.create_key("for a moment", expires_at=soon)
    with _socket(orchestrator, "/api/events", made.key) as socket:
        assert _last_word(socket) == (4401, "unauthenticated")
    with _as(orchestrator, made.key) as late, pytest.raises(Unauthenticated):
        late.me()


def test_keys_outlast_a_restart_and_are_on_no_disk(home: Path, engine: FakeEngine) -> None:
    first = Orchestrator.start(home, engine, cpus=4)
    kept, gone = first.client.create_key("kept", role="write", owner="alice"), first.client.create_key("gone")
    first.client.revoke_key(gone.id)
    with _as(first, kept.key) as holder:
        holder.me()
    first.stop()
    again = Orchestrator.start(home, engine, cpus=4)
    try:
        with _as(again, kept.key) as holder:
            assert (holder.me().id, holder.me().role, holder.me().owner) == (kept.id, "write", "alice")
        with _as(again, gone.key) as holder, pytest.raises(Unauthenticated):
            holder.me()
        listed = {key.id: key for key in again.client.list_keys()}
        assert listed[kept.id].last_used_at is not None
        assert listed[kept.id].created_by == "machine"
        secret = kept.key[-43:].encode()
        assert not any(secret in file.read_bytes() for file in home.rglob("*") if file.is_file())
    finally:
        again.stop()


def test_an_admin_key_has_no_scope(orchestrator: Orchestrator) -> None:
    with pytest.raises(InvalidInput) as refused:
        orchestrator.client.create_key("both", role="admin", owner="alice")
    assert refused.value.field == "owner"
    with pytest.raises(InvalidInput, match="past"):
        orchestrator.client.create_key("late", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(InvalidInput, match="job type"):
        orchestrator.client.create_key("unknown", types=["nonsense"])
    with pytest.raises(NotFound):
        orchestrator.client.revoke_key("nonsense")


def test_it_is_told_who_asked_for_a_change(orchestrator: Orchestrator) -> None:
    with _holder(orchestrator, "write") as holder:
        who = holder.me().id
        job_id = holder.submit("container", CONTAINER).id
        holder.cancel(job_id)
    orchestrator.reaches(str(job_id), "cancelled")
    told = {(item.type, item.data.get("to")): item.data.get("by") for item in orchestrator.client.events(job_id).items}
    assert told["job_created", None] == who
    assert who in (told.get(("status_changed", "stopping")), told.get(("status_changed", "cancelled")))
    assert told.get(("attempt_started", None)) is None


def test_a_key_may_ask_only_so_often(home: Path, engine: FakeEngine) -> None:
    slow = Orchestrator.start(home, engine, cpus=4, rate_limit_per_s=2)
    try:
        with _holder(slow, "read") as first, _holder(slow, "read") as second:
            headers = {"X-API-Key": first.api_key or ""}
            answers = [requests.get(f"{slow.url}/api/me", headers=headers, timeout=10) for _ in range(8)]
            limited = [answer for answer in answers if answer.status_code == 429]
            assert answers[0].ok
            assert limited
            assert limited[0].json()["code"] == "rate_limited"
            assert limited[0].headers["Retry-After"] == "1"
            assert second.me().role == "read"
            for _ in range(8):
                slow.client.me()
    finally:
        slow.stop()


def test_tokens_are_off_until_there_is_a_secret(orchestrator: Orchestrator) -> None:
    with pytest.raises(StateConflict, match="off"):
        orchestrator.client.create_token()
    forged = jwt.encode({"sub": "x", "role": "admin", "exp": 4e9}, SECRET, algorithm="HS256")
    with _as(orchestrator, forged) as stranger, pytest.raises(Unauthenticated):
        stranger.me()


def test_a_token_opens_what_its_key_opens_until_that_is_revoked(home: Path, engine: FakeEngine) -> None:
    signing = Orchestrator.start(home, engine, cpus=4, jwt_secret=SECRET)
    try:
        made = signing.client.create_key("alice's", role="write", owner="alice")
        with _as(signing, made.key) as alice:
            token = alice.create_token(lifetime_s=60).token
        with _as(signing, token) as holder, _socket(signing, "/api/events", token) as socket:
            assert holder.submit("container", CONTAINER).owner == "alice"
            assert json.loads(socket.recv(5))["type"] == "job_created"
            with pytest.raises(Forbidden):
                holder.list_keys()
            signing.client.revoke_key(made.id)
            with pytest.raises(Unauthenticated):
                holder.me()
        outside = jwt.encode({"sub": "ci", "role": "read", "exp": 4e9}, SECRET, algorithm="HS256")
        with _as(signing, outside) as reader:
            assert reader.me().name == "ci"
            with pytest.raises(OrchestratorError):
                reader.submit("container", CONTAINER)
    finally:
        signing.stop()


def test_the_table_of_keys_holds_only_digests(orchestrator: Orchestrator, home: Path) -> None:
    made = orchestrator.client.create_key("theirs")
    with sqlite3.connect(home / "saeforge.db") as database:
        (row,) = database.execute("SELECT * FROM api_keys").fetchall()
    database.close()
    assert made.key[-43:] not in json.dumps(row)


def _container_step(name: str = "only") -> dict[str, object]:
    return {"name": name, "type": "container", "params": CONTAINER}


def _training_step(orchestrator: Orchestrator) -> dict[str, object]:
    """A step of another type."""
    orchestrator.train()
    return {"name": "train", "type": "train-sae", "params": {"model": "tiny", "dataset": "text"}}


@pytest.mark.parametrize("scope", [{"owner": "alice"}, {"owner": None, "types": ["container"]}])
def test_a_page_of_sweeps_is_filled_past_those_beyond_reach(orchestrator: Orchestrator, scope: dict[str, Any]) -> None:
    orchestrator.train()
    hers = orchestrator.client.sweep("container", CONTAINER, owner="alice", repeat=1)
    orchestrator.client.sweep("train-sae", {"model": "tiny", "dataset": "text"}, owner="bob", repeat=1)
    with _holder(orchestrator, "read", **scope) as scoped:
        assert [item.id for item in scoped.sweeps(limit=1).items] == [hers.id]


@pytest.mark.parametrize("scope", [{"owner": "alice"}, {"owner": None, "types": ["container"]}])
def test_a_page_of_pipelines_is_filled_past_those_beyond_reach(
    orchestrator: Orchestrator, scope: dict[str, Any]
) -> None:
    hers = orchestrator.client.pipeline([_container_step()], owner="alice")
    orchestrator.client.pipeline([_container_step(), _training_step(orchestrator)], owner="bob")
    with _holder(orchestrator, "read", **scope) as scoped:
        assert [item.id for item in scoped.pipelines(limit=1).items] == [hers.id]


def test_the_queue_of_a_key_for_some_types_is_filled_past_all_of_the_others(orchestrator: Orchestrator) -> None:
    busy = [orchestrator.submit() for _ in range(4)]
    for job_id in busy:
        orchestrator.reaches(job_id, "running")
    for _ in range(25):
        orchestrator.submit(priority=5)
    last = orchestrator.train()
    until(lambda: UUID(last) in orchestrator.state.scheduler.waits, "the training waits")
    with _holder(orchestrator, "read", None, types=["train_sae"]) as scoped:
        assert [str(item.id) for item in scoped.queue(limit=1).items] == [last]
