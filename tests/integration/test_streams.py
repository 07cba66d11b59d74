import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from orchestrator import supervisor
from orchestrator.api import events
from orchestrator.errors import InvalidInput
from orchestrator.executors.fake import FakeEngine
from tests.integration.conftest import Orchestrator
from tests.waiting import until
from worker_image.contract.events import Finished, Metrics, Progress


def open_socket(orchestrator: Orchestrator, path: str, **options: Any) -> ClientConnection:
    return connect(
        orchestrator.url.replace("http", "ws") + path,
        additional_headers={"X-API-Key": orchestrator.key},
        max_size=None,
        **options,
    )


def frames(socket: ClientConnection) -> list[dict[str, Any]]:
    """All frames up to and with the end."""
    received = []
    while not received or received[-1]["type"] not in ("end", "error"):
        received.append(json.loads(socket.recv(10)))
    return received


def text(received: list[dict[str, Any]]) -> str:
    return "".join(frame["data"] for frame in received if frame["type"] == "log")


def test_a_log_is_followed_live_to_its_end(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    run = orchestrator.run_of(job_id)
    with open_socket(orchestrator, f"/api/jobs/{job_id}/logs") as socket:
        run.write(b"one\n")
        first = json.loads(socket.recv(10))
        assert first == {"type": "log", "attempt": 1, "offset": 0, "next_offset": 4, "data": "one\n"}
        run.write(b"two\n")
        orchestrator.exit(job_id)
        rest = frames(socket)
    assert text(rest) == "two\n"
    assert rest[-1] == {"type": "end", "status": "completed"}


def test_a_viewer_that_comes_late_gets_it_all_and_one_that_comes_back_gets_the_rest(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    orchestrator.run_of(job_id).write(b"0123456789")
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, "completed")
    with open_socket(orchestrator, f"/api/jobs/{job_id}/logs") as socket:
        assert text(frames(socket)) == "0123456789"
    with open_socket(orchestrator, f"/api/jobs/{job_id}/logs?offset=7") as socket:
        assert text(frames(socket)) == "789"


def test_characters_are_never_cut_and_offsets_count_bytes(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    run = orchestrator.run_of(job_id)
    euro = "€".encode()
    with open_socket(orchestrator, f"/api/jobs/{job_id}/logs") as socket:
        run.write(b"a" + euro[:2])
        assert json.loads(socket.recv(10))["data"] == "a"
        run.write(euro[2:])
        frame = json.loads(socket.recv(10))
    assert (frame["offset"], frame["next_offset"], frame["data"]) == (1, 4, "€")


def test_bytes_that_are_no_text_and_half_characters_at_the_end_still_arrive(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    orchestrator.run_of(job_id).write(b"x\xff\xfe\r50%\r" + "€".encode()[:1])
    orchestrator.exit(job_id)
    with open_socket(orchestrator, f"/api/jobs/{job_id}/logs") as socket:
        received = frames(socket)
    assert received[-2]["next_offset"] == 9
    assert "\r50%\r" in text(received)


def test_a_large_burst_arrives_whole_and_in_order(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    lines = "".join(f"line {number:07d}\n" for number in range(200_000))
    run = orchestrator.run_of(job_id)
    with open_socket(orchestrator, f"/api/jobs/{job_id}/logs") as socket:
        run.write(lines.encode())
        orchestrator.exit(job_id)
        received = frames(socket)
    assert text(received) == lines
    logs = [frame for frame in received if frame["type"] == "log"]
    assert all(before["next_offset"] == after["offset"] for before, after in pairwise(logs))


def test_the_stream_goes_on_into_the_next_attempt(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    orchestrator.run_of(job_id).write(b"first\n")
    with open_socket(orchestrator, f"/api/jobs/{job_id}/logs") as socket:
        assert json.loads(socket.recv(10))["data"] == "first\n"
        orchestrator.client.pause(job_id)
        orchestrator.report(job_id, Finished(seq=1, ts=1, outcome="paused"))
        orchestrator.exit(job_id)
        orchestrator.reaches(job_id, "paused")
        orchestrator.client.resume(job_id)
        orchestrator.run_of(job_id, 2).write(b"second\n")
        frame = json.loads(socket.recv(10))
        assert (frame["attempt"], frame["offset"], frame["data"]) == (2, 0, "second\n")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/jobs/seven/logs", 4400),
        ("/api/jobs/00000000-0000-0000-0000-000000000000/logs", 4404),
        ("/api/jobs/{id}/logs?offset=-1", 4400),
        ("/api/jobs/{id}/logs?offset=99", 4400),
        ("/api/jobs/{id}/logs?attempt=9", 4404),
        ("/api/events?job=seven", 4400),
        ("/api/events?job=00000000-0000-0000-0000-000000000000", 4404),
        ("/api/events?after=x", 4400),
    ],
)
def test_a_bad_request_is_told_and_closed(orchestrator: Orchestrator, path: str, code: int) -> None:
    job_id = orchestrator.submit()
    orchestrator.reaches(job_id, "running")
    with open_socket(orchestrator, path.replace("{id}", job_id)) as socket:
        assert json.loads(socket.recv(10))["type"] == "error"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code


def test_events_arrive_live_and_resume_by_id(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    with open_socket(orchestrator, f"/api/events?job={job_id}") as socket:
        seen = [json.loads(socket.recv(10)) for _ in range(4)]
        assert [event["type"] for event in seen] == [
            "job_created",
            "status_changed",
            "attempt_started",
            "status_changed",
        ]
        orchestrator.report(job_id, Metrics(seq=1, ts=1, step=10, values={"loss": 0.5}))
        live = json.loads(socket.recv(10))
    assert (live["type"], live["attempt"], live["seq"]) == ("metrics", 1, 1)
    assert live["data"] == {"step": 10, "values": {"loss": 0.5}}
    with open_socket(orchestrator, f"/api/events?job={job_id}&after={seen[-1]['id']}") as socket:
        assert json.loads(socket.recv(10)) == live


def test_events_of_all_jobs_come_in_one_order(orchestrator: Orchestrator) -> None:
    ids = {orchestrator.submit() for _ in range(3)}
    with open_socket(orchestrator, "/api/events") as socket:
        received = []
        while {event["job_id"] for event in received if event["type"] == "attempt_started"} != ids:
            received.append(json.loads(socket.recv(10)))
    assert [event["id"] for event in received] == sorted(event["id"] for event in received)


def test_the_log_over_http_in_parts_and_in_whole(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    run = orchestrator.run_of(job_id)
    run.write(b"one\ntwo\nthree\n")
    assert orchestrator.client.logs(job_id).data == "one\ntwo\nthree\n"
    assert orchestrator.client.logs(job_id, tail=2).data == "two\nthree\n"
    chunk = orchestrator.client.logs(job_id, offset=4, limit_bytes=3)
    assert (chunk.data, chunk.offset, chunk.next_offset, chunk.size_bytes) == ("two", 4, 7, 14)


def test_an_error_names_the_field_and_what_to_do(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    orchestrator.reaches(job_id, "running")
    with open_socket(orchestrator, f"/api/jobs/{job_id}/logs?offset=99") as socket:
        error = json.loads(socket.recv(10))
    assert error["details"]["field"] == "offset"
    assert "begin at 0" in error["details"]["suggestion"]
    with pytest.raises(InvalidInput) as raised:
        next(orchestrator.client.follow_log(job_id, offset=99))
    assert (raised.value.field, raised.value.suggestion) == ("offset", error["details"]["suggestion"])


def test_events_carry_public_names_and_are_filtered_by_either(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    orchestrator.report(
        job_id,
        Progress(seq=1, ts=1, phase="training", done=10, total=20, unit="steps"),
        Finished(seq=2, ts=2, outcome="completed"),
    )
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, "completed")
    client = orchestrator.client
    names = [event.name for event in client.events(job_id).items]
    assert names[0] == "training:created"
    assert names[-1] == "training:completed"
    assert "training:progress" in names
    for types, wanted in [
        (["training:completed"], ["status_changed"]),
        (["training:created", "progress"], ["job_created", "progress"]),
        (["training:status_changed"], ["status_changed"] * 3),
        (["never_heard_of"], []),
    ]:
        page = client.events(job_id, types=types)
        assert [event.type for event in page.items] == wanted
        assert client.events(types=types, after=page.next_after).items == []
        with open_socket(orchestrator, f"/api/events?job={job_id}&types={','.join(types)}") as socket:
            assert [json.loads(socket.recv(10))["type"] for _ in wanted] == wanted


def test_a_page_of_filtered_events_goes_on_where_it_ended(orchestrator: Orchestrator) -> None:
    ids = [orchestrator.submit() for _ in range(5)]
    seen, after = [], 0
    while page := orchestrator.client.events(after=after, types=["job_created"]).items[:2]:
        seen += [str(event.job_id) for event in page]
        after = page[-1].id
    assert seen == ids


def test_an_unknown_public_name_is_refused_with_those_there_are(orchestrator: Orchestrator) -> None:
    with pytest.raises(InvalidInput, match="training:exploded") as refused:
        orchestrator.client.events(types=["training:exploded"])
    assert "training:completed" in str(refused.value.suggestion)
    with open_socket(orchestrator, "/api/events?types=training:exploded") as socket:
        assert json.loads(socket.recv(10))["details"]["field"] == "types"


def test_from_now_on_means_just_that(orchestrator: Orchestrator) -> None:
    orchestrator.reaches(orchestrator.submit(), "running")
    newest = orchestrator.client.events(after="latest").next_after
    with open_socket(orchestrator, "/api/events?after=latest&types=job_created") as socket:
        assert json.loads(socket.recv(10)) == {"type": "heartbeat", "after": newest}
        job_id = orchestrator.submit()
        event = json.loads(socket.recv(10))
    assert (event["job_id"], event["type"]) == (job_id, "job_created")


def test_a_quiet_event_stream_tells_up_to_where_there_is_nothing(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator.reaches(orchestrator.submit(), "running")
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.01)
    with open_socket(orchestrator, "/api/events?types=checkpoint_saved") as socket:
        beat = json.loads(socket.recv(10))
    assert beat == {"type": "heartbeat", "after": orchestrator.client.events(after="latest").next_after}


def test_a_metric_is_told_when_it_is_written_and_not_at_the_next_look(home: Path, engine: FakeEngine) -> None:
    started = Orchestrator.start(home, engine, cpus=4, poll_s=60)
    try:
        job_id = started.train()
        started.reaches(job_id, "running")
        with open_socket(started, f"/api/events?job={job_id}&after=latest&types=metrics") as socket:
            assert json.loads(socket.recv(10))["type"] == "heartbeat"
            for step in (10, 20):
                started.report(job_id, Metrics(seq=step, ts=1, step=step, values={"loss": 0.5}))
                assert json.loads(socket.recv(10))["data"]["step"] == step
    finally:
        started.stop()


def test_of_a_long_training_the_newest_figures_stay_and_all_that_decided_something(
    home: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "THIN_EVERY", 50)
    started = Orchestrator.start(home, engine, cpus=4, event_history=100)
    try:
        job_id = started.train()
        started.reaches(job_id, "running")
        first = started.client.events(job_id).items
        for step in range(1, 1001, 100):
            batch = [Metrics(seq=seq, ts=1, step=seq, values={"loss": 1.0}) for seq in range(step, step + 100)]
            started.report(job_id, *batch)
            until(lambda: started.client.events(job_id).items[-1].seq == step + 99, "they are stored")  # noqa: B023
        found = started.client.events(job_id).items
        assert found[: len(first)] == first
        assert [event.seq for event in found[len(first) :]] == list(range(1001 - len(found) + len(first), 1001))
        assert 100 <= len(found) - len(first) <= 200
        assert started.client.metrics(job_id).total == 1000
        resumed = started.client.events(job_id, after=first[-1].id + 5).items
        assert resumed == found[len(first) :]
    finally:
        started.stop()
