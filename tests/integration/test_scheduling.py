"""Whose turn it is, from the request to the attempt: owners and their limits, shared GPUs, and making room."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator import scheduler
from orchestrator.cli import app
from orchestrator.cli.console import ExitCode
from orchestrator.client import Client
from orchestrator.domain import Resources
from orchestrator.errors import Forbidden, InvalidInput, QuotaExceeded
from orchestrator.executors.fake import FakeEngine
from orchestrator.gpus import Gpu, GpuReport
from tests.integration.conftest import Orchestrator
from tests.waiting import until


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Orchestrator]:
    """Four cores and one GPU of 80 GB."""
    started = Orchestrator.start(tmp_path, FakeEngine(), cpus=4, preempt_after_s=0)
    seen = GpuReport((Gpu("GPU-a", 0, "H100", 80_000, 0),))
    started.state.scheduler._board._probe = lambda: seen
    yield started
    started.stop()


def reason(machine: Orchestrator, job_id: str) -> str | None:
    wait = machine.client.job(job_id).wait
    return wait.reason if wait else None


def test_an_owner_runs_no_more_jobs_than_it_may_until_it_may_more(machine: Orchestrator) -> None:
    machine.client.set_owner("ada", max_running=1)
    first, second = (machine.submit(owner="ada") for _ in range(2))
    machine.reaches(first, "running")
    until(lambda: reason(machine, second) == "quota", "the limit is told")
    machine.client.set_owner("ada", max_running=2)
    machine.reaches(second, "running")


def test_a_plan_that_fails_is_made_again(machine: Orchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, failures = scheduler.plan, [RuntimeError("odd"), sqlite3.OperationalError("disk I/O error")]

    def failing(*args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return plan(*args, **kwargs)

    monkeypatch.setattr(scheduler, "plan", failing)
    machine.reaches(machine.submit(), "running")
    assert not failures


def test_a_job_too_many_in_the_queue_is_refused_and_names_its_owner(machine: Orchestrator) -> None:
    machine.client.set_owner("ada", max_queued=0)
    with pytest.raises(QuotaExceeded) as refused:
        machine.submit(owner="ada")
    assert "ada" in refused.value.message
    assert refused.value.field == "owner"
    machine.submit(owner="bob")


def test_owners_are_told_with_what_they_hold_may_and_used(machine: Orchestrator) -> None:
    machine.client.set_owner("ada", share=2, max_gpus=3)
    runs = machine.submit(owner="ada", resources=Resources(cpus=4))
    waits = machine.submit(owner="bob", resources=Resources(cpus=4))
    machine.reaches(runs, "running")
    ada, bob = machine.client.owners()
    assert (ada.owner, ada.share, ada.max_gpus, ada.running, ada.queued) == ("ada", 2, 3, 1, 0)
    assert (bob.owner, bob.share, bob.max_gpus, bob.running, bob.queued) == ("bob", 1, None, 0, 1)
    assert ada.usage_gpu_s > 0
    machine.exit(runs)
    machine.reaches(waits, "running")
    until(lambda: machine.client.owners()[0].running == 0, "what ada held is free")
    assert machine.client.owners()[0].usage_gpu_s > 0


def test_a_share_must_be_more_than_nothing(machine: Orchestrator) -> None:
    with pytest.raises(InvalidInput) as refused:
        machine.client.set_owner("ada", share=0)
    assert refused.value.field == "share"


def test_jobs_share_the_gpu_as_far_as_their_memory_fits(machine: Orchestrator) -> None:
    asked = Resources(gpus=1, cpus=1, gpu_memory_mb=30_000)
    jobs = [machine.submit(resources=asked) for _ in range(3)]
    for job_id in jobs[:2]:
        machine.reaches(job_id, "running")
        assert machine.run_of(job_id).spec.gpus == ("GPU-a",)
    until(lambda: reason(machine, jobs[2]) == "gpu_memory_busy", "the third waits for memory")
    machine.exit(jobs[0])
    machine.reaches(jobs[2], "running")


def test_a_running_job_makes_room_for_an_urgent_one_and_goes_back_to_the_queue(machine: Orchestrator) -> None:
    low = machine.train(resources=Resources(gpus=1, cpus=4))
    machine.reaches(low, "running")
    urgent = machine.submit(resources=Resources(gpus=1, cpus=4), priority=10)
    until(lambda: reason(machine, urgent) == "preempting", "somebody makes room for it")
    machine.reaches(low, "pausing")
    machine.exit(low)
    machine.reaches(urgent, "running")


def test_only_admins_set_limits_and_an_owner_sees_itself_alone(machine: Orchestrator) -> None:
    machine.client.set_owner("ada")
    machine.client.set_owner("bob")
    key = machine.client.create_key("hers", role="write", owner="ada").key
    with Client(machine.url, key) as scoped:
        assert [view.owner for view in scoped.owners()] == ["ada"]
        with pytest.raises(Forbidden):
            scoped.set_owner("ada", share=10)


def test_the_command_line_shows_owners_and_changes_what_it_is_told_alone(
    machine: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAEFORGE_URL", machine.url)
    monkeypatch.setenv("SAEFORGE_API_KEY", machine.key)

    def says(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == code, result.output
        return result.output

    says("owners", "set", "ada", "--share", "2", "--max-gpus", "4")
    says("owners", "set", "ada", "--max-gpus", "none", "--max-queued", "0")
    (ada,) = machine.client.owners()
    assert (ada.share, ada.max_gpus, ada.max_queued) == (2, None, 0)
    assert "0 of 0" in says("owners")
    assert [view["owner"] for view in json.loads(says("owners", "--json"))] == ["ada"]
    says("owners", "set", "ada", code=ExitCode.BAD_INPUT)
    says("submit", "container", "--image", "busybox", "--owner", "ada", "--", "true", code=ExitCode.CONFLICT)
