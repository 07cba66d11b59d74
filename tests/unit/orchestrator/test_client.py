"""The client against small servers on real sockets that answer by a script."""

import base64
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from websockets.sync.server import ServerConnection

from orchestrator import transport
from orchestrator.client import Client, LogFrame, NotInTime, UnexpectedAnswer, Unreachable
from orchestrator.domain import JobStatus
from orchestrator.errors import (
    EngineUnavailable,
    IdempotencyConflict,
    ImageMissing,
    InvalidInput,
    NotFound,
    OrchestratorError,
    RateLimited,
    SettingsError,
    StateConflict,
    Unauthenticated,
)
from orchestrator.streams import frames_of
from orchestrator.views import LogChunk, LogGap
from tests.scripted_api import (
    HANG_UP,
    HEALTH,
    JOB,
    NOW,
    Answer,
    Script,
    error_json,
    http_server,
    job_json,
    socket_server,
)

StreamHandler = Callable[[ServerConnection], None]


def client_of(url: str, **options: float) -> Client:
    return Client(url, "secret", backoff_s=0.001, **options)  # type: ignore[arg-type]


def ask(*answers: Answer, call: Callable[[Client], object]) -> tuple[object, Script]:
    script = Script(*answers)
    with http_server(script) as url, client_of(url) as client:
        return call(client), script


def refused(answer: Answer, call: Callable[[Client], object] = lambda client: client.job(JOB)) -> OrchestratorError:
    with pytest.raises(OrchestratorError) as caught:
        ask(answer, call=call)
    return caught.value


# Settings


def test_url_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEFORGE_URL", "http://10.0.0.1:1/")
    monkeypatch.setenv("SAEFORGE_API_KEY", "one")
    with Client() as client:
        assert (client.url, client.api_key) == ("http://10.0.0.1:1", "one")


def test_the_other_names_of_url_and_key_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_ORCHESTRATOR_URL", "http://10.0.0.1:2")
    monkeypatch.setenv("GPU_ORCHESTRATOR_API_KEY", "two")
    with Client() as client:
        assert (client.url, client.api_key) == ("http://10.0.0.1:2", "two")


def test_the_key_is_found_in_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAEFORGE_HOME", str(tmp_path))
    (tmp_path / "api-key").write_text("from-file\n")
    with Client() as client:
        assert client.api_key == "from-file"


def test_a_setting_that_does_not_parse_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEFORGE_PORT", "eighty")
    with pytest.raises(SettingsError, match="SAEFORGE_PORT"):
        Client()


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        Client("localhost:8000")
    assert caught.value.suggestion == "write it like http://127.0.0.1:8000"


# Requests


def test_the_key_goes_along_even_when_netrc_names_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    _, script = ask(Answer(body=HEALTH), call=Client.health)
    assert script.requests[0].headers["Authorization"] == "Bearer secret"


def test_this_machine_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    health, _ = ask(Answer(body=HEALTH), call=Client.health)
    assert health.ready  # type: ignore[attr-defined]


def test_filters_become_the_query_and_empty_ones_stay_out() -> None:
    page = Answer(body={"items": [job_json()], "total": 7})
    answer, script = ask(page, call=lambda client: client.jobs(status="running", q="a b", limit=5))
    assert script.requests[0].path == "/api/jobs?status=running&q=a+b&limit=5"
    assert (answer.total, answer.items[0].id) == (7, JOB)  # type: ignore[attr-defined]


def test_submit_sends_the_whole_request() -> None:
    _, script = ask(
        Answer(201, job_json()),
        call=lambda client: client.submit("train_sae", {"k": 4}, name="n", owner="o", priority=3, tags=["t"]),
    )
    sent = json.loads(script.requests[0].body)
    assert sent["type"] == "train_sae"
    assert sent["params"] == {"k": 4}
    assert (sent["name"], sent["owner"], sent["priority"], sent["tags"]) == ("n", "o", 3, ["t"])


@pytest.mark.parametrize("trouble", [HANG_UP, Answer(503, {}), Answer(429, {}, {"Retry-After": "0"})])
def test_submit_is_repeated_under_the_same_key(trouble: Answer) -> None:
    _, script = ask(trouble, trouble, Answer(201, job_json()), call=lambda client: client.submit("train_sae", {}))
    keys = [request.headers["Idempotency-Key"] for request in script.requests]
    assert len(keys) == 3
    assert len(set(keys)) == 1


SWEEP = {"id": str(JOB), "name": "s", "type": "container", "owner": "o", "varied": [], "max_running": None,
         "created_at": NOW, "jobs": {}}  # fmt: skip
PIPELINE = {"id": str(JOB), "name": "p", "owner": "o", "tags": [], "created_at": NOW, "status": "running", "steps": []}


@pytest.mark.parametrize(
    ("made", "call"),
    [
        (job_json(), lambda client: client.restart(JOB)),
        (job_json(), lambda client: client.clone(JOB)),
        (SWEEP, lambda client: client.sweep("container", {})),
        (PIPELINE, lambda client: client.pipeline([{"name": "a", "type": "container", "params": {}}])),
    ],
    ids=["restart", "clone", "sweep", "pipeline"],
)
def test_whatever_makes_something_is_repeated_under_the_same_key(
    made: object, call: Callable[[Client], object]
) -> None:
    _, script = ask(HANG_UP, Answer(201, made), call=call)
    assert len(script.requests) == 2
    assert len({request.headers["Idempotency-Key"] for request in script.requests}) == 1


def test_two_submissions_have_two_keys() -> None:
    def twice(client: Client) -> None:
        client.submit("train_sae", {})
        client.submit("train_sae", {})

    _, script = ask(Answer(201, job_json()), call=twice)
    first, second = (request.headers["Idempotency-Key"] for request in script.requests)
    assert first != second


def test_a_call_that_changes_something_is_sent_once() -> None:
    script = Script(HANG_UP)
    with http_server(script) as url, client_of(url) as client, pytest.raises(Unreachable):
        client.pause(JOB)
    assert len(script.requests) == 1


def test_a_read_is_tried_four_times_in_all() -> None:
    script = Script(Answer(503, {}))
    with http_server(script) as url, client_of(url) as client, pytest.raises(Unreachable):
        client.health()
    assert len(script.requests) == 4


def test_an_error_of_the_request_is_not_repeated() -> None:
    script = Script(Answer(404, error_json("not_found")))
    with http_server(script) as url, client_of(url) as client, pytest.raises(NotFound):
        client.job(JOB)
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("call", "method", "path"),
    [
        (lambda client: client.cancel(JOB), "DELETE", f"/api/jobs/{JOB}"),
        (lambda client: client.pause(JOB), "POST", f"/api/jobs/{JOB}/pause"),
        (lambda client: client.resume(JOB), "POST", f"/api/jobs/{JOB}/resume"),
        (lambda client: client.stop(JOB), "POST", f"/api/jobs/{JOB}/stop"),
        (lambda client: client.checkpoint(JOB), "POST", f"/api/jobs/{JOB}/checkpoint"),
        (lambda client: client.restart(JOB), "POST", f"/api/jobs/{JOB}/restart"),
        (lambda client: client.set_learning_rate(JOB, 1e-3), "POST", f"/api/jobs/{JOB}/learning-rate"),
        (lambda client: client.validate(JOB), "POST", f"/api/jobs/{JOB}/validate"),
        (lambda client: client.purge(JOB), "DELETE", f"/api/jobs/{JOB}/permanent"),
    ],
)
def test_each_action_has_its_address(call: Callable[[Client], object], method: str, path: str) -> None:
    _, script = ask(Answer(202, job_json()), call=call)
    assert (script.requests[0].method, script.requests[0].path) == (method, path)


# Errors


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_input", InvalidInput),
        (401, "unauthenticated", Unauthenticated),
        (404, "not_found", NotFound),
        (409, "state_conflict", StateConflict),
        (409, "idempotency_conflict", IdempotencyConflict),
        (503, "engine_unavailable", EngineUnavailable),
        (404, "a_code_of_the_future", NotFound),
        (418, "a_code_of_the_future", UnexpectedAnswer),
    ],
)
def test_an_error_is_the_orchestrators_own_class(status: int, code: str, kind: type[OrchestratorError]) -> None:
    assert type(refused(Answer(status, error_json(code)))) is kind


def test_an_error_keeps_its_message_field_and_suggestion() -> None:
    error = refused(Answer(400, error_json("invalid_input", "k: too big", field="params.k", suggestion="lower it")))
    assert (error.message, error.field, error.suggestion) == ("k: too big", "params.k", "lower it")


def test_a_wrong_key_says_where_the_key_is() -> None:
    assert "api-key" in str(refused(Answer(401, error_json("unauthenticated"))).suggestion)


def test_nobody_listening_is_unreachable_with_advice() -> None:
    with client_of("http://127.0.0.1:1") as client, pytest.raises(Unreachable, match="Connection refused") as caught:
        client.health()
    assert "saeforge up" in str(caught.value.suggestion)


def test_a_gateways_own_page_is_unreachable() -> None:
    assert type(refused(Answer(502, b"<html>Bad Gateway</html>"))) is Unreachable


def test_another_service_on_the_port_is_told_apart() -> None:
    assert type(refused(Answer(200, b"<html>hello</html>"))) is UnexpectedAnswer


def test_a_redirect_is_not_followed_with_the_key() -> None:
    error = refused(Answer(302, b"", {"Location": "http://elsewhere/"}))
    assert "http://elsewhere/" in error.message


def test_a_job_id_that_is_no_uuid_never_leaves_the_machine() -> None:
    with client_of("http://127.0.0.1:1") as client, pytest.raises(InvalidInput, match="not a job id"):
        client.job("../../health")


def test_a_submission_out_of_range_names_the_field() -> None:
    with client_of("http://127.0.0.1:1") as client, pytest.raises(InvalidInput) as caught:
        client.submit("train_sae", {}, priority=10_000)
    assert caught.value.field == "priority"


# Downloads


def test_a_log_is_downloaded_byte_for_byte() -> None:
    content = bytes(range(256)) * 1000
    target = io.BytesIO()
    size_bytes, script = ask(Answer(body=content), call=lambda client: client.download_log(JOB, target, attempt=2))
    assert (target.getvalue(), size_bytes) == (content, len(content))
    assert script.requests[0].path == f"/api/jobs/{JOB}/logs?download=true&attempt=2"


def test_an_artifact_goes_into_a_directory_under_its_own_name(tmp_path: Path) -> None:
    _, script = ask(Answer(body=b"x"), call=lambda client: client.download_artifact(JOB, "sae 1/cfg.json", tmp_path))
    assert (tmp_path / "cfg.json").read_bytes() == b"x"
    assert script.requests[0].path == f"/api/jobs/{JOB}/artifacts/sae%201/cfg.json"


def test_a_download_cut_short_leaves_no_file(tmp_path: Path) -> None:
    cut_short = Answer(body=b"half", headers={"Content-Length": "8"})
    with pytest.raises(Unreachable):
        ask(cut_short, call=lambda client: client.download_artifact(JOB, "sae.safetensors", tmp_path))
    assert list(tmp_path.iterdir()) == []


# Waiting


def test_wait_returns_the_job_once_it_has_ended() -> None:
    job, script = ask(
        Answer(body=job_json("running")),
        Answer(body=job_json("failed")),
        call=lambda client: client.wait(JOB, poll_s=0.001),
    )
    assert job.status is JobStatus.FAILED  # type: ignore[attr-defined]
    assert len(script.requests) == 2


def test_wait_outlasts_a_restart_of_the_orchestrator() -> None:
    away = [HANG_UP] * 6
    job, _ = ask(*away, Answer(body=job_json("completed")), call=lambda client: client.wait(JOB, poll_s=0.001))
    assert job.status is JobStatus.COMPLETED  # type: ignore[attr-defined]


def test_wait_gives_up_in_time() -> None:
    with pytest.raises(NotInTime, match="is running"):
        ask(Answer(body=job_json("running")), call=lambda client: client.wait(JOB, timeout_s=0.05, poll_s=0.001))


# Streams


LOG = {1: b"first line\nsecond l\xc3\xb6ne\rthird\n", 2: b"again\n"}


def _frames(attempt: int, offset: int, size: int) -> Iterator[dict[str, object]]:
    """The log from a cursor on, ``size`` characters at a time, across attempts."""
    for number, content in LOG.items():
        start = offset if number == attempt else 0
        if number < attempt:
            continue
        text = content[start:].decode()
        for at in range(0, len(text), size):
            piece = text[at : at + size]
            end = start + len(piece.encode())
            yield {"type": "log", "attempt": number, "offset": start, "next_offset": end, "data": piece}
            start = end


class FlakyLog:
    """Serves the log, but drops the connection after every ``frames`` frames."""

    def __init__(self, frames: int, size: int = 4) -> None:
        self.frames = frames
        self.size = size
        self.asked: list[str] = []

    def __call__(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.asked.append(socket.request.path)
        query = dict(part.split("=") for part in socket.request.path.split("?")[1].split("&"))
        for sent, frame in enumerate(_frames(int(query["attempt"]), int(query["offset"]), self.size)):
            if sent == self.frames:
                # Without a closing handshake, as when the process is killed.
                socket.socket.close()
                return
            socket.send(json.dumps(frame))
        socket.send(json.dumps({"type": "end", "status": "completed"}))


def _by_attempt(frames: list[LogFrame]) -> dict[int, bytes]:
    whole: dict[int, bytes] = {}
    for frame in frames:
        assert frame.offset == len(whole.get(frame.attempt, b""))
        whole[frame.attempt] = whole.get(frame.attempt, b"") + frame.data.encode()
    return whole


@pytest.mark.parametrize("frames", [1, 2, 3, 100])
def test_a_followed_log_is_whole_however_often_the_connection_drops(frames: int) -> None:
    with socket_server(FlakyLog(frames)) as url, client_of(url) as client:
        assert _by_attempt(list(client.follow_log(JOB))) == LOG


@pytest.mark.parametrize("frames", [1, 3])
async def test_an_asynchronously_followed_log_is_whole_too(frames: int) -> None:
    with socket_server(FlakyLog(frames)) as url, client_of(url) as client:
        assert _by_attempt([frame async for frame in client.afollow_log(JOB)]) == LOG


def test_following_starts_where_it_is_told() -> None:
    log = FlakyLog(frames=100, size=1000)
    with socket_server(log) as url, client_of(url) as client:
        first = next(iter(client.follow_log(JOB, attempt=1, offset=11)))
    assert first == LogFrame(1, 11, len(LOG[1]), LOG[1][11:])
    assert log.asked == [f"/api/jobs/{JOB}/logs?attempt=1&offset=11&encoding=binary"]


def test_a_frame_sent_twice_is_given_once() -> None:
    def repeating(socket: ServerConnection) -> None:
        for frame in [*_frames(1, 0, 1000)] * 2:
            socket.send(json.dumps(frame))
        socket.send(json.dumps({"type": "end", "status": "completed"}))

    with socket_server(repeating) as url, client_of(url) as client:
        assert _by_attempt(list(client.follow_log(JOB))) == LOG


def test_an_error_frame_is_raised_and_not_retried() -> None:
    calls = []

    def refusing(socket: ServerConnection) -> None:
        calls.append(1)
        socket.send(json.dumps({"type": "error", "code": "not_found", "message": "no such job"}))
        socket.close(4404)

    with socket_server(refusing) as url, client_of(url) as client, pytest.raises(NotFound, match="no such job"):
        list(client.follow_log(JOB))
    assert len(calls) == 1


def refusing(calls: list[str], *, code: str, close_code: int, frame: bool = True, after: int = 0) -> StreamHandler:
    """Sends ``after`` frames of the log on the first connection, then refuses every one as the orchestrator does."""

    def handle(socket: ServerConnection) -> None:
        assert socket.request is not None
        calls.append(socket.request.path)
        if len(calls) == 1:
            for piece in [*_frames(1, 0, 4)][:after]:
                socket.send(json.dumps(piece))
        if frame:
            socket.send(json.dumps({"type": "error", "code": code, "message": "told so"}))
        socket.close(close_code, code)

    return handle


@pytest.mark.parametrize("frame", [True, False])
@pytest.mark.parametrize(
    ("code", "close_code", "kind"),
    [
        ("state_conflict", 1011, StateConflict),
        ("image_missing", 1011, ImageMissing),
        ("not_found", 4404, NotFound),
        ("invalid_input", 4400, InvalidInput),
    ],
)
def test_a_refusal_ends_a_stream_at_once_even_after_frames(
    code: str, close_code: int, kind: type[OrchestratorError], frame: bool
) -> None:
    calls: list[str] = []
    handler = refusing(calls, code=code, close_code=close_code, frame=frame, after=2)
    with socket_server(handler) as url, client_of(url) as client, pytest.raises(kind):
        list(client.follow_log(JOB))
    assert len(calls) == 1


async def test_a_refusal_ends_an_asynchronous_stream_at_once_too() -> None:
    calls: list[str] = []
    handler = refusing(calls, code="state_conflict", close_code=1011, frame=False, after=2)
    with socket_server(handler) as url, client_of(url) as client, pytest.raises(StateConflict):
        _ = [frame async for frame in client.afollow_log(JOB)]
    assert len(calls) == 1


def test_a_job_that_vanished_while_the_connection_was_lost_is_not_found() -> None:
    calls: list[str] = []

    def purged(socket: ServerConnection) -> None:
        assert socket.request is not None
        calls.append(socket.request.path)
        if len(calls) == 1:
            socket.send(json.dumps(next(_frames(1, 0, 4))))
            socket.socket.close()
            return
        socket.send(json.dumps({"type": "error", "code": "not_found", "message": "no such job"}))
        socket.close(4404, "not_found")

    with socket_server(purged) as url, client_of(url) as client, pytest.raises(NotFound, match="no such job"):
        list(client.follow_log(JOB))
    assert len(calls) == 2


def test_a_stream_outlasts_an_engine_that_is_away() -> None:
    log = FlakyLog(frames=100)
    calls: list[str] = []

    def first_away(socket: ServerConnection) -> None:
        if len(calls) < 2:
            refusing(calls, code="engine_unavailable", close_code=1011)(socket)
        else:
            log(socket)

    with socket_server(first_away) as url, client_of(url) as client:
        assert _by_attempt(list(client.follow_log(JOB))) == LOG


def test_an_engine_that_stays_away_is_said_once_patience_is_over() -> None:
    calls: list[str] = []
    handler = refusing(calls, code="engine_unavailable", close_code=1011)
    with socket_server(handler) as url, client_of(url) as client, pytest.raises(EngineUnavailable, match="told so"):
        list(client.follow_log(JOB))
    assert len(calls) == 4


def test_a_closing_code_alone_says_what_is_wrong() -> None:
    with (
        socket_server(lambda socket: socket.close(4401)) as url,
        client_of(url) as client,
        pytest.raises(Unauthenticated),
    ):
        list(client.follow_log(JOB))


def test_a_stream_presents_the_key() -> None:
    seen: list[str] = []

    def listening(socket: ServerConnection) -> None:
        assert socket.request is not None
        seen.append(socket.request.headers["Authorization"])
        socket.send(json.dumps({"type": "end", "status": "completed"}))

    with socket_server(listening) as url, client_of(url) as client:
        assert list(client.follow_log(JOB)) == []
    assert seen == ["Bearer secret"]


def test_a_stream_that_never_was_gives_up_after_its_retries() -> None:
    with client_of("http://127.0.0.1:1") as client, pytest.raises(Unreachable):
        next(iter(client.follow_log(JOB)))


def test_a_stream_that_was_cut_gives_up_when_its_time_is_over() -> None:
    def once(socket: ServerConnection) -> None:
        socket.send(json.dumps(next(_frames(1, 0, 4))))

    with socket_server(once) as url, client_of(url, reconnect_for_s=0.05) as client:
        frames = client.follow_log(JOB)
        assert next(iter(frames)).data == "firs"
    began = time.monotonic()
    with pytest.raises(Unreachable):
        list(frames)
    assert time.monotonic() - began < 5


def event_json(number: int) -> dict[str, object]:
    return {
        "id": number, "job_id": str(JOB), "attempt": 1, "seq": number, "ts": NOW, "type": "metrics",
        "data": {"step": number},
    }  # fmt: skip


def flaky_events(socket: ServerConnection) -> None:
    """Two events a connection, and the last one of the connection before."""
    assert socket.request is not None
    after = int(socket.request.path.rsplit("=", 1)[1])
    for number in (max(after, 1), after + 1, after + 2):
        socket.send(json.dumps(event_json(number)))


def test_followed_events_come_once_each_in_order() -> None:
    with socket_server(flaky_events) as url, client_of(url) as client:
        events = client.follow_events(JOB)
        assert [next(events).id for _ in range(9)] == list(range(1, 10))
        events.close()


async def test_asynchronously_followed_events_come_once_each_in_order() -> None:
    with socket_server(flaky_events) as url, client_of(url) as client:
        events = client.afollow_events(JOB, after=5)
        assert [(await anext(events)).id for _ in range(5)] == list(range(6, 11))
        await events.aclose()


def binary(frame: dict[str, object], content: bytes) -> bytes:
    return json.dumps(frame).encode() + b"\n" + content


def test_a_followed_log_is_byte_for_byte_what_was_written() -> None:
    strange = b"\x00\xff\n\r\xe2\x82"

    def sending(socket: ServerConnection) -> None:
        frame = {"type": "log", "attempt": 1, "offset": 0, "next_offset": len(strange)}
        socket.send(binary(frame, strange))
        socket.send(json.dumps({"type": "end", "status": "completed"}))

    with socket_server(sending) as url, client_of(url) as client:
        (frame,) = client.follow_log(JOB)
    assert frame.content == strange
    assert frame.data == strange.decode(errors="replace")


def test_what_is_skipped_shows_as_a_line_and_following_goes_on_behind_it() -> None:
    asked: list[str] = []

    def skipping(socket: ServerConnection) -> None:
        assert socket.request is not None
        asked.append(socket.request.path)
        if len(asked) == 1:
            place = {"attempt": 1, "offset": 0, "next_offset": 500}
            socket.send(json.dumps({"type": "skipped", "reason": "slow", "bytes": 500, **place}))
            socket.socket.close()
            return
        socket.send(json.dumps({"type": "end", "status": "completed"}))

    with socket_server(skipping) as url, client_of(url) as client:
        (frame,) = client.follow_log(JOB, skip=True)
    assert frame.content == b""
    assert "500 bytes skipped" in frame.data
    assert "offset=0&encoding=binary&skip=true" in asked[0]
    assert "offset=500" in asked[1]


def test_a_heartbeat_moves_the_place_where_events_go_on() -> None:
    asked: list[str] = []

    def beating(socket: ServerConnection) -> None:
        assert socket.request is not None
        asked.append(socket.request.path)
        if len(asked) == 1:
            socket.send(json.dumps({"type": "heartbeat", "after": 41}))
            socket.socket.close()
            return
        socket.send(json.dumps(event_json(42)))

    with socket_server(beating) as url, client_of(url) as client:
        events = client.follow_events(after="latest", types=["metrics", "training:completed"])
        assert next(events).id == 42
        events.close()
    assert asked[0] == "/api/events?types=metrics%2Ctraining%3Acompleted&after=latest"
    assert asked[1].endswith("after=41")


def chunk_json(attempt: int, offset: int) -> dict[str, object]:
    content = LOG[attempt][offset : offset + 12]
    return {
        "attempt": attempt, "offset": offset, "next_offset": offset + len(content), "size_bytes": len(LOG[attempt]),
        "encoding": "base64", "data": base64.b64encode(content).decode(), "gaps": [],
    }  # fmt: skip


class NoSockets(Script):
    """An orchestrator behind something that lets no WebSocket through."""

    def next(self) -> Answer:
        path = urlsplit(self.requests[-1].path)
        query = dict(parse_qsl(path.query))
        if self.requests[-1].headers.get("Upgrade"):
            return Answer(502, "no WebSockets here")
        if path.path.endswith("/logs"):
            return Answer(body=chunk_json(int(query["attempt"]), int(query["offset"])))
        if path.path.endswith("/events"):
            after = int(query["after"])
            items = [event_json(number) for number in range(after + 1, min(after + 3, 6))]
            return Answer(body={"items": items, "next_after": after + len(items)})
        return Answer(body=job_json("completed", attempts=2))


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "POLL_S", 0.001)


@pytest.mark.usefixtures("_impatient")
def test_where_no_websocket_can_be_had_the_log_is_asked_for() -> None:
    with http_server(NoSockets()) as url, client_of(url) as client:
        assert _by_attempt(list(client.follow_log(JOB))) == LOG


@pytest.mark.usefixtures("_impatient")
async def test_where_no_websocket_can_be_had_the_log_is_asked_for_asynchronously_too() -> None:
    with http_server(NoSockets()) as url, client_of(url) as client:
        assert _by_attempt([frame async for frame in client.afollow_log(JOB)]) == LOG


@pytest.mark.usefixtures("_impatient")
def test_where_no_websocket_can_be_had_events_are_asked_for() -> None:
    with http_server(NoSockets()) as url, client_of(url) as client:
        events = client.follow_events(JOB)
        assert [next(events).id for _ in range(5)] == [1, 2, 3, 4, 5]
        events.close()


def test_a_chunk_with_a_gap_is_taken_apart_around_it() -> None:
    gap = LogGap(offset=3, next_offset=10, bytes=7, reason="quota", message="7 gone")
    data = base64.b64encode(b"abcdef").decode()
    chunk = LogChunk(attempt=1, offset=0, next_offset=13, size_bytes=13, encoding="base64", data=data, gaps=[gap])
    assert frames_of(chunk) == [
        LogFrame(1, 0, 3, b"abc"),
        LogFrame(1, 3, 10, b"", "7 gone"),
        LogFrame(1, 10, 13, b"def"),
    ]


def test_importing_the_client_pulls_in_no_server_and_no_torch() -> None:
    loaded = "import sys, orchestrator.client; print({'fastapi', 'torch', 'docker', 'streamlit'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", loaded], text=True).strip() == "set()"


def test_too_many_requests_is_an_error_of_its_own() -> None:
    script = Script(Answer(429, error_json("rate_limited"), headers={"Retry-After": "0"}))
    with http_server(script) as url, Client(url, "key", retries=1) as client, pytest.raises(RateLimited):
        client.me()
    assert len(script.requests) == 2


def test_a_file_that_holds_no_certificates_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate\n")
    monkeypatch.setenv("SAEFORGE_CA_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(SettingsError, match="no certificates"):
        Client("https://127.0.0.1:1", "key")
