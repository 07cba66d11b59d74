"""Training in a real container, through the API, with whatever can happen to it on the way."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.client import Client
from orchestrator.domain import JobStatus
from tests import engine
from tests.machine import Machine
from tests.tiny import DATASET, HOOKPOINT, MODEL, put_inputs
from tests.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

STEPS = 1000
EVERY = 10
PARAMS = {
    "model": MODEL,
    "dataset": DATASET,
    "hookpoint": HOOKPOINT,
    "k": 4,
    "batch_size": 256,
    "steps": STEPS,
    "held_out_tokens": 1024,
    "log_every_steps": EVERY,
    "checkpoint_every_steps": 200,
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    engine.require_engine()
    subprocess.run([engine.ROOT / "scripts" / "worker-image"], check=True, stdout=subprocess.DEVNULL, timeout=800)
    one = Machine(tmp_path_factory.mktemp("training") / "home", "docker")
    put_inputs(one.home)
    one.start()
    yield one
    one.leave()


@pytest.fixture
def client(machine: Machine) -> Iterator[Client]:
    with machine.client() as opened:
        yield opened


def submit(client: Client, **changes: Any) -> str:
    return str(client.submit("train_sae", {**PARAMS, **changes}).id)


def trains(client: Client, job_id: str, step: int) -> None:
    """Return once the job has passed this step."""

    def passed() -> bool:
        job = client.job(job_id)
        assert job.status not in (JobStatus.FAILED, JobStatus.COMPLETED), job
        return (job.metrics or {}).get("step", 0) >= step

    until(passed, f"step {step}", lambda: client.logs(job_id, tail=5).data, timeout_s=120)


def steps(client: Client, job_id: str) -> list[int]:
    return [point.step for point in client.metrics(job_id).items]


def artifact(client: Client, job_id: str, name: str) -> bytes:
    path = Path(client.job(job_id).result_path or "") / name
    return path.read_bytes()


@pytest.fixture(scope="module")
def undisturbed(machine: Machine) -> bytes:
    """The weights of a run that nothing happened to."""
    with machine.client() as client:
        job_id = submit(client)
        assert client.wait(job_id, timeout_s=300).status == JobStatus.COMPLETED
        return artifact(client, job_id, "sae.safetensors")


def test_the_orchestrator_is_killed_and_the_same_container_finishes_with_everything(
    machine: Machine, client: Client, undisturbed: bytes
) -> None:
    job_id = submit(client)
    trains(client, job_id, 50)
    handle = client.job(job_id).attempt_list[0].handle
    machine.end(signal.SIGKILL)
    machine.start()
    ended = client.wait(job_id, timeout_s=300)
    assert ended.status == JobStatus.COMPLETED
    assert [attempt.handle for attempt in ended.attempt_list] == [handle]
    assert steps(client, job_id) == list(range(EVERY, STEPS + 1, EVERY))
    followed = "".join(frame.data for frame in client.follow_log(job_id))
    assert followed == Path(ended.log_path or "").read_text()
    assert artifact(client, job_id, "sae.safetensors") == undisturbed


def test_pause_and_resume_end_in_the_same_weights(client: Client, undisturbed: bytes) -> None:
    job_id = submit(client)
    trains(client, job_id, 50)
    client.pause(job_id)
    paused = client.wait(job_id, until={JobStatus.PAUSED}, timeout_s=60)
    assert paused.status == JobStatus.PAUSED
    assert [command.status for command in paused.commands] == ["applied"]
    client.resume(job_id)
    ended = client.wait(job_id, timeout_s=300)
    assert (ended.status, ended.attempts) == (JobStatus.COMPLETED, 2)
    assert steps(client, job_id) == list(range(EVERY, STEPS + 1, EVERY))
    assert artifact(client, job_id, "sae.safetensors") == undisturbed


def test_a_killed_container_is_continued_by_itself_to_the_same_weights(client: Client, undisturbed: bytes) -> None:
    job_id = submit(client)
    trains(client, job_id, 250)
    subprocess.run(["docker", "kill", client.job(job_id).attempt_list[0].handle], check=True, stdout=subprocess.DEVNULL)
    ended = client.wait(job_id, timeout_s=300)
    assert ended.status == JobStatus.COMPLETED
    assert [attempt.end_reason for attempt in ended.attempt_list] == ["killed", "completed"]
    assert "continuing from" in client.logs(job_id).data
    assert artifact(client, job_id, "sae.safetensors") == undisturbed


def test_stop_leaves_a_checkpoint_and_artifacts(client: Client) -> None:
    job_id = submit(client, steps=100_000)
    trains(client, job_id, 20)
    client.stop(job_id)
    assert client.wait(job_id, timeout_s=60).status == JobStatus.STOPPED
    assert client.checkpoints(job_id)[0].reason == "stop"
    left = {"sae.safetensors", "cfg.json", "metrics.json", "report.md"}
    left |= {"saelens/sae_weights.safetensors", "saelens/cfg.json"}
    assert {item.path for item in client.artifacts(job_id)} == left
    assert json.loads(artifact(client, job_id, "metrics.json"))["fvu"] > 0


def test_what_is_asked_live_is_done_and_outlasts_a_kill(client: Client) -> None:
    job_id = submit(client, steps=100_000, checkpoint_every_steps=None)
    trains(client, job_id, 20)
    client.checkpoint(job_id)
    until(lambda: client.checkpoints(job_id), "a checkpoint is written", timeout_s=60)
    client.set_learning_rate(job_id, 1e-5)
    client.validate(job_id)
    client.set_parameters(job_id, {"log_every_steps": 20, "auxk_alpha": 0.5})
    until(
        lambda: {command.status for command in client.job(job_id).commands} == {"applied"},
        "all are applied",
        timeout_s=60,
    )
    assert [checkpoint.reason for checkpoint in client.checkpoints(job_id)] == ["command"]
    assert any("val_fvu" in point.values for point in client.metrics(job_id, names=["val_fvu"]).items)
    until(lambda: (client.job(job_id).metrics or {})["lr"] == pytest.approx(1e-5), "it trains at the new rate")
    subprocess.run(["docker", "kill", client.job(job_id).attempt_list[0].handle], check=True, stdout=subprocess.DEVNULL)
    until(lambda: len(client.job(job_id).attempt_list) == 2, "it goes on", timeout_s=60)
    until(lambda: "auxk_alpha 0.5" in client.logs(job_id, attempt=2).data, "the change is made again", timeout_s=120)
    assert client.set_parameters(job_id, {"lr": 1e-5, "auxk_alpha": 0.5}, dry_run=True).differences == []
    client.cancel(job_id)
    assert client.wait(job_id, timeout_s=60).status == JobStatus.CANCELLED


@pytest.mark.parametrize("wrong", [{"hookpoint": "encoder.layer.9"}, {"auxk_k": 4096}, {"text_field": "body"}])
def test_what_only_the_worker_can_see_fails_fast_and_names_the_parameter(client: Client, wrong: dict[str, Any]) -> None:
    failure = client.wait(submit(client, **wrong), timeout_s=60).failure
    assert failure is not None
    assert failure.reason == "user_error"
    assert [failure.field] == [f"params.{name}" for name in wrong]
    assert failure.suggestion
