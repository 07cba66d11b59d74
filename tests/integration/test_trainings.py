"""The view of SAE trainings over the jobs."""

from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import ValidationError

from orchestrator.executors.fake import FakeEngine
from orchestrator.settings import Settings
from tests.integration.conftest import Orchestrator
from tests.waiting import until
from worker_image.contract.events import CheckpointSaved, Metrics
from worker_image.contract.rundir import RunDir


def ask(orchestrator: Orchestrator, method: str, path: str, **body: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {orchestrator.key}"}
    url = f"{orchestrator.url}/api/trainings{path}"
    return requests.request(method, url, headers=headers, json=body or None, timeout=10)


def test_a_training_is_created_without_naming_its_type(orchestrator: Orchestrator) -> None:
    orchestrator.train()
    made = ask(orchestrator, "POST", "", params={"model": "tiny", "dataset": "text"}, name="mine")
    assert (made.status_code, made.json()["type"], made.json()["name"]) == (201, "train_sae", "mine")


def test_only_trainings_are_listed_and_found(orchestrator: Orchestrator) -> None:
    container, training = orchestrator.submit(), orchestrator.train()
    assert [item["id"] for item in ask(orchestrator, "GET", "").json()["items"]] == [training]
    assert ask(orchestrator, "GET", f"/{container}").status_code == 404
    assert ask(orchestrator, "POST", f"/{container}/stop").status_code == 404
    assert orchestrator.client.job(container).intent == "run"


def test_a_training_comes_with_its_model_and_dataset(orchestrator: Orchestrator) -> None:
    told = ask(orchestrator, "GET", f"/{orchestrator.train()}").json()
    assert told["model"]["detail"]["d_model"] == 8
    assert told["dataset"]["name"] == "text.txt"


def test_a_training_is_steered_and_measured_like_the_job_it_is(orchestrator: Orchestrator) -> None:
    training = orchestrator.train()
    orchestrator.reaches(training, "running")
    orchestrator.report(training, *(Metrics(seq=n, ts=n, step=n, values={"loss": 1.0}) for n in range(1, 11)))
    assert ask(orchestrator, "POST", f"/{training}/checkpoints").status_code == 202
    assert ask(orchestrator, "POST", f"/{training}/pause").json()["status"] == "pausing"
    assert [item.type for item in orchestrator.client.job(training).commands] == ["checkpoint", "pause"]
    asked = "/metrics?start_step=2&end_step=8&interval=2"

    def steps() -> list[int]:
        return [point["step"] for point in ask(orchestrator, "GET", f"/{training}{asked}").json()["items"]]

    until(lambda: steps() == [2, 4, 6, 8], "the steps asked for are there", steps)
    assert ask(orchestrator, "GET", f"/{training}/checkpoints").json() == []


def test_a_checkpoint_of_a_training_that_has_ended_is_loaded_by_a_new_one(orchestrator: Orchestrator) -> None:
    training = orchestrator.train()
    run_dir = RunDir(orchestrator.run_of(training).spec.run_dir)
    for seq, step in enumerate((5, 6), 1):
        (run_dir.checkpoints / f"step_{step}").mkdir()
        told = {"name": f"step_{step}", "step": step, "size_bytes": 1, "digest": "sha256:0", "reason": "interval"}
        orchestrator.report(training, CheckpointSaved.model_validate({"seq": seq, "ts": 1, **told}))
    assert ask(orchestrator, "POST", f"/{training}/checkpoints/step_5/load").status_code == 409
    orchestrator.exit(training, 1)
    orchestrator.reaches(training, "failed")
    loaded = ask(orchestrator, "POST", f"/{training}/checkpoints/step_5/load")
    assert (loaded.status_code, loaded.json()["restarted_from"]) == (201, training)
    spec = RunDir(orchestrator.run_of(loaded.json()["id"]).spec.run_dir).spec()
    assert spec.resume_from == str(run_dir.checkpoints / "step_5")
    assert ask(orchestrator, "POST", f"/{training}/checkpoints/step_7/load").status_code == 404


def test_a_training_that_writes_for_tensorboard_tells_where_it_is_shown(home: Path, engine: FakeEngine) -> None:
    orchestrator = Orchestrator.start(home, engine, cpus=4, tensorboard_url="http://boards.example:6006/")
    try:
        plain = orchestrator.client.job(orchestrator.train())
        assert (plain.tensorboard_url, plain.tensorboard_logdir) == (None, None)
        params = {"model": "tiny", "dataset": "text", "trackers": ["tensorboard"]}
        written = orchestrator.client.job(orchestrator.submit("train_sae", params=params))
        assert written.tensorboard_url == f"http://boards.example:6006/?runFilter={written.id}#timeseries"
        assert written.tensorboard_logdir == str(orchestrator.settings.runs / str(written.id))
    finally:
        orchestrator.stop()


def test_a_tensorboard_is_reached_over_http_only() -> None:
    with pytest.raises(ValidationError, match="tensorboard_url"):
        Settings(tensorboard_url="javascript:alert(1)")
