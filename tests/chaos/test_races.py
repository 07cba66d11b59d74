"""The user asks for an end at every moment of a job's life, over the API."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator import supervisor
from orchestrator.domain import TERMINAL, JobStatus, Resources, RetryPolicy
from orchestrator.errors import StateConflict
from orchestrator.executors.base import RunState
from orchestrator.executors.fake import FakeEngine, FakeExecutor
from tests.chaos.host import Host
from tests.chaos.inputs import put_inputs
from tests.chaos.invariants import check_invariants
from tests.chaos.programs import number, train
from tests.chaos.story import SMALL, container, look_at, training
from tests.integration.conftest import Orchestrator
from tests.waiting import until

CPU = Resources(gpus=0, cpus=1)
LONG = 1_000_000
MOST_S = 1.5
"""Longest that a container is left alone before it is asked to end: by then it has long begun."""


@pytest.fixture
def orchestrator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orchestrator]:
    monkeypatch.setattr(supervisor, "TERM_GRACE_S", 0.2)
    engine = FakeEngine(number(0.005))
    engine.programs = {"python": train(0.005)}
    made = Orchestrator.start(tmp_path / "home", engine, cpus=4, grace_s=0.3)
    put_inputs(made.settings)
    yield made
    made.stop()
    check_invariants(made.settings, FakeExecutor(engine))


def submit(one: Orchestrator, type: str, *, steps: int = LONG, name: str = "plain") -> str:
    params = training(steps) if type == "train_sae" else container(steps)
    return one.submit(type, params=params, name=name, resources=CPU, retry=RetryPolicy())


# Moments: each takes a job there, and returns its id.


def queued(one: Orchestrator, type: str) -> str:
    one.submit("container", params=container(LONG), resources=Resources(gpus=0, cpus=4))
    job_id = submit(one, type)
    until(lambda: one.client.job(job_id).wait is not None, "it waits")
    return job_id


def being_pulled(one: Orchestrator, type: str) -> str:
    one.engine.stalled_images |= {one.settings.worker_image, "any"}
    job_id = submit(one, type)
    one.reaches(job_id, "starting")
    return job_id


def created_only(one: Orchestrator, type: str) -> str:
    one.engine.starts_by_itself = False
    job_id = submit(one, type)
    assert one.run_of(job_id).state is RunState.CREATED
    return job_id


def started(one: Orchestrator, type: str) -> str:
    job_id = submit(one, type)
    one.run_of(job_id)
    return job_id


def running(one: Orchestrator, type: str) -> str:
    job_id = submit(one, type)
    until(lambda: one.client.logs(job_id).size_bytes > 0, "it writes its log")
    return job_id


def about_to_pause(one: Orchestrator, type: str) -> str:
    """Told to, and not answering: a checkpoint may take long."""
    job_id = submit(one, type, name="deaf")
    one.reaches(job_id, "running")
    if type == "train_sae":
        one.client.pause(job_id)
    return job_id


def ended(one: Orchestrator, type: str) -> str:
    """Its program has ended; the orchestrator may not have seen it yet."""
    job_id = submit(one, type, steps=1)
    run = one.run_of(job_id)
    until(lambda: run.state is RunState.EXITED, "it has ended")
    return job_id


MOMENTS = (queued, being_pulled, created_only, started, running, about_to_pause, ended)
WANTED = {"cancel": JobStatus.CANCELLED, "stop": JobStatus.STOPPED, "pause": JobStatus.PAUSED}


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
@pytest.mark.parametrize(
    ("action", "type"),
    [
        ("cancel", "container"),
        ("cancel", "train_sae"),
        ("stop", "container"),
        ("stop", "train_sae"),
        ("pause", "train_sae"),
    ],
)
def test_an_end_can_be_asked_for_at_any_moment(
    moment: Callable[[Orchestrator, str], str], action: str, type: str, orchestrator: Orchestrator
) -> None:
    job_id = moment(orchestrator, type)
    wanted = {WANTED[action]}
    if moment is ended:
        # Whoever was first: nobody may take back a completion.
        wanted.add(JobStatus.COMPLETED)
        with suppress(StateConflict):
            getattr(orchestrator.client, action)(job_id)
    else:
        getattr(orchestrator.client, action)(job_id)
    engine = orchestrator.engine
    engine.starts_by_itself = True
    engine.stalled_images.clear()
    until(lambda: orchestrator.status(job_id) in wanted, f"{wanted}", lambda: orchestrator.client.job(job_id))
    for job in orchestrator.client.jobs().items:
        if job.status not in TERMINAL:
            orchestrator.client.cancel(job.id)
    purged(orchestrator, job_id)


@pytest.mark.parametrize(
    ("action", "type"), [("cancel", "container"), ("stop", "container"), ("stop", "train_sae"), ("pause", "train_sae")]
)
def test_an_end_asked_for_while_the_image_is_pulled_does_not_wait_for_it(
    action: str, type: str, orchestrator: Orchestrator
) -> None:
    job_id = being_pulled(orchestrator, type)
    until(lambda: orchestrator.client.job(job_id).phase.startswith("pulling image"), "it says what it waits for")
    getattr(orchestrator.client, action)(job_id)
    orchestrator.reaches(job_id, WANTED[action])
    assert not orchestrator.engine.runs
    orchestrator.engine.stalled_images.clear()
    if action == "pause":
        orchestrator.client.resume(job_id)
        orchestrator.reaches(job_id, "running")
        orchestrator.client.cancel(job_id)
        orchestrator.reaches(job_id, "cancelled")


def test_a_pause_taken_back_while_the_image_is_pulled_queues_the_job_again(
    orchestrator: Orchestrator,
) -> None:
    job_id = being_pulled(orchestrator, "train_sae")
    orchestrator.client.pause(job_id)
    with suppress(StateConflict):  # it may be queued already
        orchestrator.client.resume(job_id)
    orchestrator.engine.stalled_images.clear()
    orchestrator.reaches(job_id, "running")
    orchestrator.client.cancel(job_id)
    orchestrator.reaches(job_id, "cancelled")


@pytest.mark.parametrize("action", ["cancel", "stop"])
def test_an_end_asked_for_while_another_is_being_settled_counts(
    action: str, orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    judging, asked = threading.Event(), threading.Event()
    newest_checkpoint = supervisor.newest_checkpoint

    async def after_the_question(*args: Any) -> Path | None:
        judging.set()
        await asyncio.to_thread(asked.wait, 20)
        return await newest_checkpoint(*args)

    monkeypatch.setattr(supervisor, "newest_checkpoint", after_the_question)
    job_id = submit(orchestrator, "train_sae", name="plain")
    orchestrator.reaches(job_id, "running")
    orchestrator.exit(job_id, 1)
    assert judging.wait(20)
    getattr(orchestrator.client, action)(job_id)
    asked.set()
    until(lambda: orchestrator.status(job_id) in TERMINAL, "it ends")
    # The job was read before the question came, and judged by what was wanted then: it has to be judged again.
    wanted = JobStatus.CANCELLED if action == "cancel" else JobStatus.STOPPED
    assert orchestrator.status(job_id) == wanted
    until(lambda: not orchestrator.engine.runs, "nothing is left on the engine")


def purged(one: Orchestrator, job_id: str) -> None:
    """Purge it right away: that is refused for as long as something of it is there, and then leaves nothing."""

    def done() -> bool:
        try:
            one.client.purge(job_id)
        except StateConflict:
            return False
        return True

    until(done, "it is purged")
    assert not (one.settings.runs / job_id).exists()
    until(lambda: not one.engine.runs, "nothing is left on the engine")


@pytest.mark.docker
@pytest.mark.parametrize("action", ["cancel", "stop"])
def test_an_end_can_be_asked_for_at_any_moment_of_a_container(
    action: str, docker_host: Host, engine_image: str
) -> None:
    docker_host.start()
    dice = random.Random(0)
    jobs = []
    for _ in range(8):
        jobs.append(docker_host.submit("container", container(LONG, engine_image), resources=SMALL))
        time.sleep(dice.uniform(0, MOST_S / 8))
        docker_host.ask(lambda client, job_id=jobs[-1]: getattr(client, action)(job_id))  # type: ignore[misc]
    for job_id in jobs:
        docker_host.reaches(job_id, {WANTED[action]})
    docker_host.quiesce()
    docker_host.end()
    look_at(docker_host)
