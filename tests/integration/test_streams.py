import json
from itertools import pairwise
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.integration.conftest import Orchestrator
from worker_image.contract.events import Finished, Metrics


def open_socket(orchestrator: Orchestrator, path: str) -> ClientConnection:
    return connect(
        orchestrator.url.replace("http", "ws") + path, additional_headers={"X-API-Key": orchestrator.key}, max_size=None
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
