"""Logs that are large, cut, strange or watched by many, over real sockets."""

import base64
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from benchmarks.server import Server
from orchestrator.api import log_socket
from orchestrator.executors.fake import FakeEngine
from orchestrator.streams import LogFrame, frames_of
from tests.integration.conftest import Orchestrator
from tests.integration.test_streams import open_socket
from tests.waiting import until
from worker_image.contract.rundir import RunDir

STRANGE = b"10%\r20%\r\n\x00\xff\xfe\xe2\x82" + b"x" * 200_000 + "€\n".encode() * 30_000 + b"\xe2\x82"
"""Carriage returns, zeros, bytes that are no text, a very long line, half a character at the end."""


@pytest.fixture
def bounded(home: Path, engine: FakeEngine) -> Iterator[Orchestrator]:
    """An orchestrator that keeps one MiB of each log."""
    started = Orchestrator.start(home, engine, cpus=4, log_quota_mb=1)
    yield started
    started.stop()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def numbered(count: int) -> bytes:
    return b"".join(b"line %09d\n" % number for number in range(count))


def ended(orchestrator: Orchestrator, data: bytes) -> str:
    """A job that wrote this and has ended."""
    job_id = orchestrator.submit()
    orchestrator.run_of(job_id).write(data)
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, "completed")
    return job_id


def messages(orchestrator: Orchestrator, path: str) -> list[tuple[dict[str, Any], bytes]]:
    """Every message up to the end, taken apart; text frames have no content beside."""
    received: list[tuple[dict[str, Any], bytes]] = []
    with open_socket(orchestrator, path) as viewer:
        while not received or received[-1][0]["type"] != "end":
            message = viewer.recv(20)
            if isinstance(message, bytes):
                head, _, content = message.partition(b"\n")
                received.append((json.loads(head), content))
            else:
                received.append((json.loads(message), b""))
    return received


def test_whatever_a_job_writes_arrives_byte_for_byte_on_every_way(orchestrator: Orchestrator) -> None:
    job_id = ended(orchestrator, STRANGE)
    client = orchestrator.client
    binary = messages(orchestrator, f"/api/jobs/{job_id}/logs?encoding=binary")
    assert b"".join(content for _, content in binary) == STRANGE
    assert all(one["next_offset"] == two["offset"] for (one, _), (two, _) in pairwise(binary[:-1]))
    assert b"".join(frame.content for frame in client.follow_log(job_id)) == STRANGE
    assert base64.b64decode(client.logs(job_id, encoding="base64").data) == STRANGE
    url = f"{orchestrator.url}/api/jobs/{job_id}/logs?download=true"
    assert requests.get(url, headers={"X-API-Key": orchestrator.key}, timeout=10).content == STRANGE


def test_a_burst_of_two_hundred_megabytes_arrives_whole(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    run, block = orchestrator.run_of(job_id), numbered(70_000)
    wanted = hashlib.sha256()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(hash_of_log, orchestrator, job_id)
        for _ in range(200):
            run.write(block)
            wanted.update(block)
        orchestrator.exit(job_id)
        assert following.result(60) == wanted.hexdigest()


def deaf_viewer(port: int, key: str, path: str) -> socket.socket:
    """A connection over which a WebSocket was asked for, and which nobody reads."""
    viewer = socket.create_connection(("127.0.0.1", port))
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"X-API-Key: {key}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    viewer.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return viewer


def left_in(viewer: socket.socket) -> bytes:
    """What a connection still brings before it is closed."""
    viewer.settimeout(20)
    received = bytearray()
    with suppress(ConnectionResetError):
        while block := viewer.recv(1 << 20):
            received += block
    return bytes(received)


def test_of_fifty_viewers_one_that_never_reads_is_let_go_and_the_others_get_it_all(
    home: Path, engine: FakeEngine
) -> None:
    started = Orchestrator.start(home, engine, cpus=4, viewer_timeout_s=1)
    try:
        job_id = started.submit()
        # More than fits into all that lies between the two sides.
        run, block = started.run_of(job_id), numbered(1_000_000)
        deaf_one = deaf_viewer(started.settings.port, started.key, f"/api/jobs/{job_id}/logs")
        with deaf_one as deaf, ThreadPoolExecutor(49) as pool:
            following = [pool.submit(hash_of_log, started, job_id) for _ in range(49)]
            run.write(block)
            started.exit(job_id)
            assert {each.result(120) for each in following} == {digest(block)}
            until(lambda: started.state.feeds.viewers == 0, "the one that never reads is let go")
            left = left_in(deaf)
        assert b"101 Switching Protocols" in left
        assert len(left) < len(block)
        assert b'"end"' not in left
    finally:
        started.stop()


def hash_of_log(orchestrator: Orchestrator, job_id: str) -> str:
    seen = hashlib.sha256()
    for frame in orchestrator.client.follow_log(job_id):
        seen.update(frame.content)
    return seen.hexdigest()


def over_quota(orchestrator: Orchestrator) -> tuple[str, bytes]:
    """A running job whose log was cut, and all that it wrote."""
    job_id = orchestrator.submit()
    written = numbered(400_000)
    orchestrator.run_of(job_id).write(written)
    until(lambda: orchestrator.client.events(job_id, types=["log_over_quota"]).items, "the log is cut")
    # The first look may find it while it is still being written.
    log = RunDir.of(orchestrator.settings.home, job_id, 1).log  # type: ignore[arg-type]
    until(lambda: log.stat().st_blocks * 512 <= 1.1 * 2**20, "all of it is cut")
    return job_id, written


def put_together(frames: list[LogFrame], written: bytes) -> None:
    """The frames follow one another, hold what was written where they hold anything, and say what is gone."""
    assert frames[0].offset == 0
    assert frames[-1].next_offset == len(written)
    assert all(one.next_offset == two.offset for one, two in pairwise(frames))
    for frame in frames:
        if not frame.skipped:
            assert frame.content == written[frame.offset : frame.next_offset]
    (gap,) = [frame for frame in frames if frame.skipped]
    dropped = gap.next_offset - gap.offset
    assert gap.skipped == f"[saeforge: {dropped} bytes dropped here: the log exceeded its quota of 1 MB]\n" == gap.data


def test_a_log_over_its_quota_takes_no_more_and_everyone_sees_what_is_gone(bounded: Orchestrator) -> None:
    job_id, written = over_quota(bounded)
    log = RunDir.of(bounded.settings.home, job_id, 1).log  # type: ignore[arg-type]
    assert log.stat().st_size == len(written)
    bounded.exit(job_id)
    bounded.reaches(job_id, "completed")
    client = bounded.client
    followed = list(client.follow_log(job_id))
    put_together(followed, written)
    put_together(frames_of(client.logs(job_id, encoding="base64")), written)

    shown = "".join(frame.data for frame in followed)
    chunk = client.logs(job_id)
    assert (chunk.data, chunk.next_offset) == (shown, len(written))
    (gap,) = chunk.gaps
    assert gap.message in shown
    url = f"{bounded.url}/api/jobs/{job_id}/logs?download=true"
    assert requests.get(url, headers={"X-API-Key": bounded.key}, timeout=10).text == shown
    assert client.logs(job_id, tail=2).data == "line 000399998\nline 000399999\n"
    everything = client.logs(job_id, tail=1_000_000)
    assert everything.data.startswith(gap.message)
    middle = client.logs(job_id, offset=gap.offset + 10, limit_bytes=100)
    assert middle.data.startswith(f"[saeforge: {gap.bytes - 10} bytes dropped here")
    before = client.logs(job_id, offset=gap.offset - 3, limit_bytes=3)
    assert (before.data.encode(), before.next_offset) == (written[gap.offset - 3 : gap.offset], gap.offset)


def test_a_viewer_in_the_middle_of_what_is_dropped_goes_on_behind_it(bounded: Orchestrator) -> None:
    job_id, written = over_quota(bounded)
    (gap,) = bounded.client.logs(job_id).gaps
    with open_socket(bounded, f"/api/jobs/{job_id}/logs?offset={gap.offset + 1000}") as viewer:
        skipped = json.loads(viewer.recv(10))
        following = json.loads(viewer.recv(10))
    assert (skipped["type"], skipped["reason"], skipped["bytes"]) == ("skipped", "quota", gap.bytes - 1000)
    assert (skipped["offset"], skipped["next_offset"]) == (gap.offset + 1000, gap.next_offset)
    assert following["offset"] == gap.next_offset
    assert following["data"].encode() == written[following["offset"] : following["next_offset"]]


def test_an_excess_is_told_as_an_event(bounded: Orchestrator) -> None:
    job_id, written = over_quota(bounded)
    (event,) = bounded.client.events(job_id, types=["log_over_quota"]).items
    # The first look may find it while it is still being written.
    assert 2**20 < event.data.pop("size_bytes") <= len(written)
    assert event.data == {"attempt": 1, "quota_mb": 1, "dropping": True}


def test_a_slow_viewer_is_moved_forward_if_it_asked_for_that(
    home: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_socket, "LAG_PATIENCE_S", 0.0)
    started = Orchestrator.start(home, engine, cpus=4, viewer_lag_mb=1)
    try:
        written = numbered(500_000)
        job_id = ended(started, written)
        received = messages(started, f"/api/jobs/{job_id}/logs?encoding=binary&skip=true")[:-1]
        skipped = [head for head, _ in received if head["type"] == "skipped"]
        assert skipped
        assert all(head["reason"] == "slow" for head in skipped)
        assert all(head["bytes"] == head["next_offset"] - head["offset"] > 0 for head in skipped)
        assert all(one["next_offset"] == two["offset"] for (one, _), (two, _) in pairwise(received))
        assert all(content == written[head["offset"] : head["next_offset"]] for head, content in received if content)
        assert received[-1][0]["next_offset"] == len(written)
        assert b"".join(content for _, content in messages(started, f"/api/jobs/{job_id}/logs?encoding=binary")) == (
            written
        )
    finally:
        started.stop()


def test_a_log_that_its_job_cuts_is_followed_from_there(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    run = orchestrator.run_of(job_id)
    frames: list[LogFrame] = []
    following = orchestrator.client.follow_log(job_id)
    run.write(b"0123456789\n")
    frames.append(next(following))
    os.truncate(RunDir(run.spec.run_dir).log, 0)
    frames.append(next(following))
    run.write(b"afresh\n")
    frames.append(next(following))
    orchestrator.exit(job_id)
    assert list(following) == []
    assert [(frame.offset, frame.next_offset, frame.content) for frame in frames] == [
        (0, 11, b"0123456789\n"),
        (11, 0, b""),
        (0, 7, b"afresh\n"),
    ]
    assert "cut its log" in frames[1].skipped


@pytest.mark.parametrize(
    ("wanted", "status", "content"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=4-", 206, b"456789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=8-99", 206, b"89"),
        ("bytes=10-", 416, None),
        ("bytes=5-2", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
        ("bytes=0-1,4-5", 200, b"0123456789"),
    ],
)
def test_a_download_can_be_taken_up_again(
    orchestrator: Orchestrator, wanted: str, status: int, content: bytes | None
) -> None:
    job_id = ended(orchestrator, b"0123456789")
    url = f"{orchestrator.url}/api/jobs/{job_id}/logs?download=true"
    answer = requests.get(url, headers={"X-API-Key": orchestrator.key, "Range": wanted}, timeout=10)
    assert answer.status_code == status
    if content is None:
        assert answer.json()["details"]["field"] == "Range"
    else:
        assert answer.content == content
    if status == 206:
        start = b"0123456789".index(content or b"")
        assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(content or b'') - 1}/10"


def test_what_a_job_put_in_place_of_its_log_is_shown_to_nobody(orchestrator: Orchestrator, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    job_id = orchestrator.submit()
    run = orchestrator.run_of(job_id)
    run.write(b"before\n")
    log = RunDir(run.spec.run_dir).log
    with open_socket(orchestrator, f"/api/jobs/{job_id}/logs") as viewer:
        assert json.loads(viewer.recv(10))["data"] == "before\n"
        log.unlink()
        log.symlink_to(secret)
        orchestrator.exit(job_id)
        rest = [json.loads(message) for message in viewer]
    assert "secret" not in json.dumps(rest)
    assert orchestrator.client.logs(job_id).data == ""
    assert orchestrator.client.logs(job_id, tail=5).data == ""


@pytest.mark.parametrize("query", ["encoding=latin-1", "skip=maybe"])
def test_an_option_that_is_none_is_refused_by_name(orchestrator: Orchestrator, query: str) -> None:
    job_id = orchestrator.submit()
    with open_socket(orchestrator, f"/api/jobs/{job_id}/logs?{query}") as viewer:
        error = json.loads(viewer.recv(10))
    assert (error["type"], error["code"]) == ("error", "invalid_input")
    assert error["details"]["field"] == query.split("=")[0]


def test_a_quiet_stream_says_that_it_lives(orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_socket, "HEARTBEAT_S", 0.01)
    job_id = orchestrator.submit()
    with open_socket(orchestrator, f"/api/jobs/{job_id}/logs") as viewer:
        assert json.loads(viewer.recv(10)) == {"type": "heartbeat"}


def test_a_connection_that_takes_nothing_is_ended_and_its_file_closed(tmp_path: Path) -> None:
    server = Server(tmp_path / "home", cpus="2", viewer_timeout_s="0.5")
    try:
        with server.client() as client:
            job = client.submit("container", {"image": "busybox", "command": ["forever"]}).id
            until(lambda: client.job(job).status == "running", "it runs")
        RunDir.of(server.home, job, 1).log.write_bytes(numbered(1_000_000))
        with deaf_viewer(server.port, server.key, f"/api/jobs/{job}/logs") as deaf:
            own = deaf.getsockname()
            process = psutil.Process(server.process.pid)
            until(lambda: own not in [each.raddr for each in process.net_connections("tcp")], "the server let go of it")
    finally:
        server.kill()
