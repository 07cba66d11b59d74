"""Many viewers, one of whom never reads; many jobs."""

import asyncio
import hashlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from uuid import UUID

import pytest

from orchestrator.client import Client
from orchestrator.domain import JobStatus, Resources
from orchestrator.executors.fake import FakeEngine, FakeRun
from tests.chaos.host import Host
from tests.chaos.story import container
from tests.integration.conftest import Orchestrator
from worker_image.contract.rundir import RunDir

VIEWERS = 50
LOG_BYTES = 16 << 20
BLOCK = b"".join(b"line %d of a block that repeats\n" % number for number in range(2000))
JOBS = 10_000
SUBMITTERS = 8
EVERYTHING = Resources(gpus=0, cpus=4)


async def flood(run: FakeRun) -> int:
    """Writes more than the sockets between two machines hold."""
    written = 0
    while written < LOG_BYTES:
        run.write(BLOCK)
        written += len(BLOCK)
        await asyncio.sleep(0)
    return 0


@pytest.fixture
def orchestrator(tmp_path: Path) -> Iterator[Orchestrator]:
    made = Orchestrator.start(tmp_path / "home", FakeEngine(flood), cpus=4)
    yield made
    made.stop()


async def digest_of(client: Client, job_id: UUID) -> str:
    seen = hashlib.sha256()
    async for frame in client.afollow_log(job_id):
        seen.update(frame.content)
    return seen.hexdigest()


def deaf_viewer(one: Orchestrator, job_id: UUID) -> socket.socket:
    """A WebSocket that is opened and then never read from."""
    viewer = socket.create_connection(("127.0.0.1", one.settings.port))
    viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    viewer.sendall(
        f"GET /api/jobs/{job_id}/logs?attempt=1&offset=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {one.key}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    assert viewer.recv(12) == b"HTTP/1.1 101"
    return viewer


def test_fifty_viewers_see_every_byte_though_one_of_them_never_reads(orchestrator: Orchestrator) -> None:
    job_id = UUID(orchestrator.submit("container", params=container(), resources=EVERYTHING))

    async def look() -> list[str]:
        return await asyncio.gather(*(digest_of(orchestrator.client, job_id) for _ in range(VIEWERS - 1)))

    with closing(deaf_viewer(orchestrator, job_id)):
        seen = asyncio.run(look())
    log = RunDir.of(orchestrator.settings.home, job_id, 1).log.read_bytes()
    assert len(log) >= LOG_BYTES
    assert set(seen) == {hashlib.sha256(log).hexdigest()}
    orchestrator.reaches(str(job_id), "completed")


def queue_of(host: Host) -> list[tuple[UUID, int]]:
    """Every queued job, newest first, with its priority."""
    seen: list[tuple[UUID, int]] = []
    total = 1
    while len(seen) < total:
        page = host.ask(partial(Client.jobs, status="queued", limit=500, offset=len(seen)))
        assert page is not None
        seen += [(job.id, job.priority) for job in page.items]
        total = page.total
    return seen


def submit_share(host: Host, count: int) -> list[UUID]:
    """Submit jobs one after the other; the client's own checks would take most of the time."""
    key = host.settings.key_file.read_text().strip()
    resources = EVERYTHING.model_dump(mode="json")
    body = json.dumps({"type": "container", "params": container(1), "resources": resources}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    made = []
    with closing(HTTPConnection("127.0.0.1", host.settings.port, timeout=60)) as connection:
        for _ in range(count):
            connection.request("POST", "/api/jobs", body, headers)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 201, content
            made.append(UUID(json.loads(content)["id"]))
    return made


def test_ten_thousand_queued_jobs_outlive_their_orchestrator_in_their_order(host: Host) -> None:
    host.start()
    blocker = host.submit("container", container(1_000_000), resources=Resources(gpus=0, cpus=8))
    host.reaches(blocker, {JobStatus.RUNNING})
    with ThreadPoolExecutor(SUBMITTERS) as threads:
        shares = list(threads.map(submit_share, [host] * SUBMITTERS, [JOBS // SUBMITTERS] * SUBMITTERS))
    submitted = {job_id for share in shares for job_id in share}
    cancelled = {share[place] for share in shares for place in (0, 100, -1)}
    for job_id in cancelled:
        host.ask(partial(Client.cancel, job_id=job_id))
    before = queue_of(host)
    assert {job_id for job_id, _ in before} == submitted - cancelled
    host.kill()
    host.revive()
    assert queue_of(host) == before
    # Within one submitter's share, who came earlier is before who came later.
    places = {job_id: place for place, (job_id, _) in enumerate(reversed(before))}
    for share in shares:
        kept = [places[job_id] for job_id in share if job_id in places]
        assert kept == sorted(kept)
