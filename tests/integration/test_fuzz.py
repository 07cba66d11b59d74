"""Whatever is sent, as the schema allows it or not: no answer is the server's error, and all are as documented."""

import os
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import load_all_checks
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation

from orchestrator.app import create_app
from orchestrator.executors.fake import FakeEngine
from orchestrator.settings import Settings
from tests.integration.conftest import Orchestrator
from worker_image.contract.events import ArtifactSaved, CheckpointSaved, Metrics

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5"))
"""Requests of each kind for each operation. More of them find more, in more time."""

load_all_checks()
CHECKS = [
    schemathesis.checks.not_a_server_error,
    *(
        check
        for check in schemathesis.checks.CHECKS.get_all()
        if check.__name__ in ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
    ),
]


def _operations() -> dict[str, "APIOperation"]:
    """Label -> operation; those that change what others look at come later, and those that delete it last."""
    schema = schemathesis.openapi.from_dict(create_app(Settings(home=Path("/nowhere"))).openapi())
    found = [result.ok() for result in schema.get_all_operations()]
    found.sort(key=lambda operation: ["get", "put", "post", "patch", "delete"].index(operation.method))
    return {operation.label: operation for operation in found}


OPERATIONS = _operations()


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orchestrator]:
    started = Orchestrator.start(tmp_path_factory.mktemp("fuzz") / "home", FakeEngine(), cpus=4)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def job_id(fuzzed: Orchestrator) -> str:
    """A job with everything a job can have."""
    job_id = fuzzed.train(name="everything", tags=["a"])
    run = fuzzed.run_of(job_id)
    run.write(b"a line\n\xff\xfe\r no text\n")
    fuzzed.report(
        job_id,
        *(Metrics(seq=n, ts=time.time(), step=n, values={"loss": 1 / n}) for n in range(1, 30)),
        CheckpointSaved(seq=30, ts=1, name="step_7", step=7, size_bytes=1, digest="sha256:0", reason="interval"),
        ArtifactSaved(seq=31, ts=1, path="x", kind="sae", size_bytes=7, digest="sha256:0"),
    )
    return job_id


@pytest.fixture(scope="module", params=["everything", "some jobs"])
def key(fuzzed: Orchestrator, request: pytest.FixtureRequest) -> str:
    """One that opens everything, or one for writing that reaches that job and few others."""
    if request.param == "everything":
        return fuzzed.key
    return fuzzed.client.create_key("scoped", role="write", owner="default", types=["train_sae"]).key


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", OPERATIONS)
def test_no_request_breaks_it(fuzzed: Orchestrator, job_id: str, key: str, label: str, mode: GenerationMode) -> None:
    operation = OPERATIONS[label]
    known = {"id": job_id} if "{id}" in operation.path and mode is GenerationMode.POSITIVE else None

    with requests.Session() as session:
        session.headers["X-API-Key"] = key

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(mode, path_parameters=known))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(base_url=fuzzed.url, session=session, checks=CHECKS, timeout=20)

        # Some take nothing that could be wrong.
        with suppress(Unsatisfiable) if mode is GenerationMode.NEGATIVE else nullcontext():
            ask()
