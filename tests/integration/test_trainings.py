"""The view of SAE trainings over the jobs."""

from typing import Any

import requests

from tests.integration.conftest import Orchestrator
from tests.waiting import until
from worker_image.contract.events import Metrics


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
