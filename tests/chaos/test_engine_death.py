"""kill -9 of the Docker engine while a job runs."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.domain import JobStatus, RetryPolicy
from tests.chaos.host import Host
from tests.chaos.own_engine import OwnEngine
from tests.chaos.story import SMALL, container, look_at
from tests.engine import require_engine
from tests.waiting import until

pytestmark = pytest.mark.docker

STEPS = 1200
"""About three seconds."""


@pytest.fixture(params=[True, False], ids=["live-restore", "no live-restore"])
def engine(request: pytest.FixtureRequest) -> Iterator[OwnEngine]:
    require_engine()
    if os.getuid() != 0:
        pytest.skip("only root can start an engine")
    made = OwnEngine(Path(tempfile.mkdtemp(prefix="engine-")), live_restore=request.param)
    yield made
    made.end()


@pytest.fixture
def host(engine: OwnEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    engine.start()
    monkeypatch.setenv("DOCKER_HOST", engine.address)
    made = Host(
        tmp_path / "home",
        environment={"DOCKER_HOST": engine.address},
        executor="docker",
        worker_image=engine.load_image(),
        poll_s=0.05,
    )
    yield made
    made.clear()


def test_a_job_outlives_its_engine(engine: OwnEngine, host: Host, request: pytest.FixtureRequest) -> None:
    host.start()
    job_id = host.submit(
        "container", container(STEPS, host.settings.worker_image), resources=SMALL, retry=RetryPolicy(backoff_s=0.1)
    )
    host.reaches(job_id, {JobStatus.RUNNING})
    (first,) = host.job(job_id).attempt_list
    engine.kill()
    until(lambda: "unreachable" in host.job(job_id).phase, "its phase tells", lambda: host.job(job_id))
    assert host.job(job_id).status is JobStatus.RUNNING
    engine.start()
    ended = host.reaches(job_id, {JobStatus.COMPLETED})
    attempts = ended.attempt_list
    if request.node.callspec.params["engine"]:
        assert [attempt.handle for attempt in attempts] == [first.handle]
    else:
        assert [attempt.end_reason for attempt in attempts] == ["killed", "completed"]
    host.quiesce()
    host.end()
    look_at(host)
