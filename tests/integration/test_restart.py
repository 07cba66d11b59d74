"""The orchestrator goes away and comes back; the engine and its runs go on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.app import sole_owner
from orchestrator.errors import SettingsError
from orchestrator.executors.fake import FakeEngine
from tests.integration.conftest import Orchestrator
from tests.waiting import until


class Host:
    """One machine on which the orchestrator is started again and again."""

    def __init__(self, home: Path, engine: FakeEngine) -> None:
        self._home, self._engine = home, engine
        self.now = Orchestrator.start(home, engine, cpus=4)

    def restart(self) -> Orchestrator:
        self.now.stop()
        self.now = Orchestrator.start(self._home, self._engine, cpus=4)
        return self.now


@pytest.fixture
def host(home: Path, engine: FakeEngine) -> Iterator[Host]:
    made = Host(home, engine)
    yield made
    made.now.stop()


def test_a_queued_job_starts_after_a_restart(engine: FakeEngine, host: Host) -> None:
    engine.down = True
    host.restart()
    job_id = host.now.submit()

    def reason() -> str:
        wait = host.now.client.job(job_id).wait
        return wait.reason if wait else ""

    until(lambda: reason() == "engine_unavailable", "it waits for the engine")
    engine.down = False
    host.restart().reaches(job_id, "running")


def test_an_engine_that_goes_away_harms_no_job(host: Host) -> None:
    job_id = host.now.submit()
    host.now.reaches(job_id, "running")
    host.now.engine.down = True
    until(lambda: "unreachable" in host.now.client.job(job_id).phase, "it says so")
    assert host.now.status(job_id) == "running"
    host.now.engine.down = False
    until(lambda: host.now.client.job(job_id).phase == "running", "it says that it is back")
    host.now.exit(job_id)
    host.now.reaches(job_id, "completed")


def test_a_second_orchestrator_on_one_home_is_refused(host: Host, home: Path) -> None:
    with pytest.raises(SettingsError, match="another orchestrator"), sole_owner(host.now.settings):
        pass
