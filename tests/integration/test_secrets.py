"""Secrets from the API to the job, and nowhere else."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import requests

from orchestrator.client import Client
from orchestrator.errors import Forbidden, InvalidInput, NotFound
from tests.integration.conftest import Orchestrator
from tests.machine import Machine
from tests.waiting import until
from worker_image.contract.events import Failure, Finished

VALUE = "the-value-9f2c71d0"
CONTAINER = {"image": "busybox", "command": ["run"]}


def files_with(home: Path, value: str) -> list[str]:
    """Where in the home this stands, the secrets themselves apart."""
    return [
        str(path)
        for path in home.rglob("*")
        if path.is_file() and not path.is_relative_to(home / "secrets") and value.encode() in path.read_bytes()
    ]


def test_a_value_goes_in_and_never_comes_out(orchestrator: Orchestrator) -> None:
    orchestrator.client.set_secret("TOKEN", VALUE)
    (listed,) = orchestrator.client.list_secrets()
    assert (listed.name, listed.owner) == ("TOKEN", None)
    job_id = orchestrator.submit(secrets=["TOKEN"])
    assert orchestrator.client.job(job_id).secrets == ["TOKEN"]
    headers = {"X-API-Key": orchestrator.key}
    for path in ("/api/secrets", "/api/jobs", f"/api/jobs/{job_id}", f"/api/jobs/{job_id}/events"):
        assert VALUE not in requests.get(orchestrator.url + path, headers=headers, timeout=10).text
    assert requests.get(f"{orchestrator.url}/api/secrets/TOKEN", headers=headers, timeout=10).status_code == 405


@pytest.mark.parametrize("body", [{"value": VALUE, "extra": 1}, {"value": [VALUE]}, {"value": VALUE * 9000}, VALUE])
def test_a_refused_value_is_not_repeated(orchestrator: Orchestrator, body: object) -> None:
    headers = {"X-API-Key": orchestrator.key}
    answer = requests.put(f"{orchestrator.url}/api/secrets/TOKEN", json=body, headers=headers, timeout=10)
    assert answer.status_code == 400
    assert VALUE not in answer.text


def test_a_job_that_names_a_secret_that_is_none_is_refused(orchestrator: Orchestrator) -> None:
    with pytest.raises(InvalidInput) as refused:
        orchestrator.client.submit("container", CONTAINER, secrets=["NONE"])
    assert refused.value.field == "secrets"
    with pytest.raises(NotFound):
        orchestrator.client.delete_secret("NONE")


def test_a_scoped_key_reaches_its_owners_secrets_only(orchestrator: Orchestrator) -> None:
    orchestrator.client.set_secret("SHARED", VALUE)
    orchestrator.client.set_secret("BOBS", VALUE, owner="bob")
    key = orchestrator.client.create_key("alice's", role="write", owner="alice").key
    with Client(orchestrator.url, key, retries=0) as alice:
        alice.set_secret("HERS", VALUE)
        assert {(secret.name, secret.owner) for secret in alice.list_secrets()} == {
            ("HERS", "alice"),
            ("SHARED", None),
        }
        with pytest.raises(Forbidden):
            alice.set_secret("BOBS", VALUE, owner="bob")
        for name in ("BOBS", "SHARED"):
            with pytest.raises(NotFound):
                alice.delete_secret(name)
        assert alice.submit("container", CONTAINER, secrets=["HERS", "SHARED"]).secrets == ["HERS", "SHARED"]
        with pytest.raises(InvalidInput):
            alice.submit("container", CONTAINER, secrets=["BOBS"])


def test_an_attempt_has_its_secrets_until_it_is_released(orchestrator: Orchestrator) -> None:
    orchestrator.client.set_secret("TOKEN", VALUE)
    job_id = orchestrator.submit(secrets=["TOKEN"])
    spec = orchestrator.run_of(job_id).spec
    assert spec.secrets is not None
    assert (spec.secrets / "TOKEN").read_text() == VALUE
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, "completed")
    until(lambda: not orchestrator.engine.runs, "the container is removed")
    until(lambda: not spec.secrets or not spec.secrets.exists(), "the secrets are taken back")
    again = str(orchestrator.client.restart(job_id).id)
    assert orchestrator.client.job(again).secrets == ["TOKEN"]
    orchestrator.exit(again)
    orchestrator.reaches(again, "completed")


def test_what_a_job_says_of_its_failure_is_kept_without_the_value(orchestrator: Orchestrator) -> None:
    orchestrator.client.set_secret("TOKEN", VALUE)
    told, logged = orchestrator.train(secrets=["TOKEN"]), orchestrator.submit(secrets=["TOKEN"])
    failure = Failure(code="user_error", message=f"{VALUE} was refused")
    orchestrator.report(told, Finished(seq=1, ts=1, outcome="failed", failure=failure))
    orchestrator.exit(told, 2)
    log = orchestrator.run_of(logged).spec.run_dir / "log"
    log.write_text(f"cannot log in with {VALUE}\n")
    orchestrator.exit(logged, 1)
    for job_id in (told, logged):
        orchestrator.reaches(job_id, "failed")
        found = orchestrator.client.job(job_id).failure
        assert found is not None
        assert VALUE not in found.message
        assert "***" in found.message
    home = orchestrator.settings.home
    database = [name for name in files_with(home, VALUE) if "saeforge.db" in name]
    assert not database


@pytest.fixture
def machine(tmp_path: Path, engine_image: str) -> Iterator[Machine]:
    machine = Machine(tmp_path / "home", "docker")
    machine.environment["SAEFORGE_SECRETS_TMPFS"] = f"/dev/shm/saeforge-test-{os.getpid()}-{machine.port}"
    machine.start()
    yield machine
    machine.leave()
    shutil.rmtree(machine.environment["SAEFORGE_SECRETS_TMPFS"], ignore_errors=True)


SCRIPT = """
test "$(cat "$SAEFORGE_SECRETS_DIR/HF_TOKEN")" = "$1" && echo same
test "$(cat "$HF_TOKEN_PATH")" = "$1" && echo token
cat /run/secrets/OTHER 2>/dev/null && echo other
(echo x > /run/secrets/HF_TOKEN) 2>/dev/null && echo written
ls -l /run/secrets/HF_TOKEN | cut -c1-10
id -u
while [ ! -e "$SAEFORGE_RUN_DIR/artifacts/go" ]; do sleep 0.05; done
"""


@pytest.mark.docker
def test_a_container_reads_its_secret_and_nothing_else_tells_it(machine: Machine, engine_image: str) -> None:
    given = machine.run("secrets", "set", "HF_TOKEN", input=f"{VALUE}\n".encode())
    assert given.returncode == 0, given.stderr
    machine.run("secrets", "set", "OTHER", input=b"not asked for\n")
    with machine.client() as client:
        # The value itself must not be on the command line, which is kept: its digest would do, so compare with that.
        script = SCRIPT.replace('"$1"', f'"$(printf %s {VALUE[:4]}; printf %s {VALUE[4:]})"')
        params = {"image": engine_image, "command": ["sh", "-c", script]}
        job = client.submit("container", params, secrets=["HF_TOKEN"])
        until(lambda: client.logs(job.id).data.count("\n") >= 4, "it has looked", lambda: client.logs(job.id))
        assert client.logs(job.id).data.split("\n")[:3] == ["same", "token", "-r--------"]
        engine = docker.from_env()
        try:
            attrs = engine.containers.get(f"saeforge-{job.id}-1").attrs
        finally:
            engine.close()
        lent = next(Path(mount["Source"]) for mount in attrs["Mounts"] if mount["Destination"] == "/run/secrets")
        assert VALUE not in json.dumps(attrs)
        assert (lent / "HF_TOKEN").read_text() == VALUE
        assert not files_with(machine.home, VALUE)
        (Path(client.job(job.id).result_path or "") / "go").touch()
        client.wait(job.id, timeout_s=60)
    until(lambda: not lent.exists(), "the secret is taken back")
    assert not files_with(machine.home, VALUE)


@pytest.mark.docker
def test_secrets_lent_when_the_orchestrator_died_are_taken_back(machine: Machine, engine_image: str) -> None:
    machine.run("secrets", "set", "TOKEN", input=VALUE.encode())
    with machine.client() as client:
        params = {"image": engine_image, "command": ["sleep", "600"]}
        job = client.submit("container", params, secrets=["TOKEN"])
        client.wait(job.id, until={"running"}, timeout_s=60)  # type: ignore[arg-type]
    memory = Path(machine.environment["SAEFORGE_SECRETS_TMPFS"])
    (lent,) = memory.glob("*/saeforge-*")
    stray = lent.with_name("saeforge-of-an-attempt-long-gone")
    stray.mkdir()
    machine.end(9)  # type: ignore[arg-type]
    assert (lent / "TOKEN").read_text() == VALUE, "a job goes on without the orchestrator"
    machine.start()
    assert not stray.exists()
    assert lent.exists()
    with machine.client() as client:
        client.cancel(job.id)
        client.wait(job.id, timeout_s=60)
    until(lambda: not lent.exists(), "the secret is taken back")
