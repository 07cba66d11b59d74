"""What happens to containers from outside: removed, killed, out of memory, out of time."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import docker
import pytest

from orchestrator.domain import EndReason, JobStatus, Resources, RetryPolicy
from tests.chaos.host import Host
from tests.chaos.inputs import put_inputs
from tests.chaos.story import EVERY_STEPS, SMALL, look_at, training
from tests.waiting import until

STEPS = 400
SOON = RetryPolicy(backoff_s=0.05)
NEVER = RetryPolicy(max_retries=0)
GREEDY = "held = []\nwhile True: held.append(bytearray(8 << 20))"

Mishap = Callable[[Any], None]

MISHAPS = [
    pytest.param(lambda container: container.remove(force=True), id="docker rm -f"),
    pytest.param(lambda container: container.kill(), id="docker kill"),
    pytest.param(lambda container: container.stop(timeout=10), id="docker stop"),
]
SEEN_AS = {EndReason.LOST, EndReason.KILLED}
"""What is removed may be seen ended for a moment before it is gone."""


def ended(host: Host) -> None:
    host.quiesce()
    host.end()
    look_at(host)


def befall(host: Host, mishap: Mishap, retry: RetryPolicy) -> Any:
    """Let it happen to a training that has written a checkpoint; the job once it has ended."""
    put_inputs(host.settings)
    host.start()
    job_id = host.submit("train_sae", training(STEPS), resources=SMALL, retry=retry)
    until(lambda: (host.job(job_id).metrics or {}).get("step", 0) > EVERY_STEPS, "a checkpoint is written")
    (attempt,) = host.job(job_id).attempt_list
    with closing(docker.from_env()) as client:
        mishap(client.containers.get(attempt.handle))
    return host.reaches(job_id)


@pytest.mark.docker
@pytest.mark.parametrize("mishap", MISHAPS)
def test_a_lost_training_continues_from_its_newest_checkpoint(mishap: Mishap, docker_host: Host) -> None:
    job = befall(docker_host, mishap, SOON)
    assert job.status is JobStatus.COMPLETED
    first, second = job.attempt_list
    assert first.end_reason in SEEN_AS
    assert second.resume_from is not None
    ended(docker_host)


@pytest.mark.docker
@pytest.mark.parametrize("mishap", MISHAPS)
def test_a_lost_training_that_is_not_to_be_tried_again_fails_with_advice(mishap: Mishap, docker_host: Host) -> None:
    job = befall(docker_host, mishap, NEVER)
    assert job.status is JobStatus.FAILED
    assert job.failure.reason in SEEN_AS
    assert "restart the job" in job.failure.suggestion
    ended(docker_host)


@pytest.mark.docker
def test_a_job_that_takes_too_much_memory_twice_fails_and_names_the_limit(docker_host: Host, engine_image: str) -> None:
    docker_host.start()
    params = {"image": engine_image, "command": ["python3", "-c", GREEDY]}
    resources = Resources(gpus=0, cpus=0.5, memory_mb=64)
    job = docker_host.reaches(docker_host.submit("container", params, resources=resources, retry=SOON))
    assert job.status is JobStatus.FAILED
    assert [attempt.end_reason for attempt in job.attempt_list] == [EndReason.HOST_OOM, EndReason.HOST_OOM]
    assert job.failure is not None
    assert job.failure.field == "resources.memory_mb"
    ended(docker_host)


def test_a_job_out_of_time_is_told_so_by_whoever_finds_it_ended(host: Host) -> None:
    put_inputs(host.settings)
    host.start("exit_seen")
    resources = Resources(gpus=0, cpus=0.5, timeout_s=0.3)
    job = host.reaches(host.submit("train_sae", training(100_000), resources=resources))
    assert host.deaths == 1
    assert job.failure is not None
    assert job.failure.reason is EndReason.TIMEOUT
    assert len(job.attempt_list) == 1
    ended(host)
