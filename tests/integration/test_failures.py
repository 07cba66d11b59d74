"""Failures made real in containers: what their users are told."""

from collections.abc import Iterator

import pytest

from orchestrator.client import Client
from orchestrator.domain import EndReason, JobStatus, Resources, RetryPolicy
from orchestrator.views import FailureView
from tests import engine
from tests.machine import Machine
from tests.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

LATENT = 'x = bytearray(400 << 20); print("never")'
PROGRAM = """\
import json
def read(text):
    return json.loads(text)
print("starting")
read("{")
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    engine.require_engine()
    machine = Machine(tmp_path_factory.mktemp("failures") / "home", "docker")
    machine.start()
    with machine.client() as opened:
        yield opened
    machine.leave()


def failure(client: Client, *command: str, image: str = "", **resources: object) -> FailureView:
    """What a user is told of a program that fails."""
    job = client.submit(
        "container",
        {"image": image or engine.base_image(), "command": list(command)},
        resources=Resources.model_validate(resources),
        retry=RetryPolicy(max_retries=0),
    )
    ended = client.wait(job.id, timeout_s=90)
    assert ended.status is JobStatus.FAILED, client.logs(job.id).data
    assert ended.failure is not None
    assert ended.failure.suggestion
    return ended.failure


def shell(client: Client, script: str, **resources: object) -> FailureView:
    return failure(client, "sh", "-c", script, **resources)


def test_a_program_that_fills_its_memory(client: Client) -> None:
    told = failure(client, "python3", "-c", LATENT, memory_mb=128)
    assert (told.reason, told.field) == (EndReason.HOST_OOM, "resources.memory_mb")
    assert "128 MiB" in told.message


def test_a_program_whose_child_fills_its_memory_and_which_fails_for_it(client: Client) -> None:
    told = shell(client, f"python3 -c '{LATENT}' || exit 3", memory_mb=128)
    assert (told.reason, told.field) == (EndReason.HOST_OOM, "resources.memory_mb")


def test_an_image_that_is_not_to_be_had(client: Client) -> None:
    told = failure(client, "true", image="saeforge-no-such-image:none")
    assert (told.reason, told.field) == (EndReason.IMAGE_MISSING, "params.image")
    assert "saeforge-no-such-image:none" in told.message


def test_a_command_that_is_not_in_the_image(client: Client) -> None:
    told = failure(client, "trian", "--fast")
    assert (told.reason, told.field) == (EndReason.USER_ERROR, "params.command")
    assert "trian was not found in the image" in told.message


def test_a_command_that_cannot_be_run(client: Client) -> None:
    told = failure(client, "/etc/passwd")
    assert (told.reason, told.field) == (EndReason.USER_ERROR, "params.command")
    assert "cannot be run" in told.message


def test_a_program_that_runs_for_too_long(client: Client) -> None:
    told = failure(client, "sleep", "600", timeout_s=1.5)
    assert (told.reason, told.field) == (EndReason.TIMEOUT, "resources.timeout_s")
    assert "1.5 s" in told.message


def test_a_python_program_that_fails_is_told_by_its_exception_and_its_own_line(client: Client) -> None:
    told = failure(client, "python3", "-c", PROGRAM)
    assert told.reason is EndReason.USER_ERROR
    assert told.message.startswith("JSONDecodeError: Expecting property name")
    assert "<string> line 3, in read" in told.message


@pytest.mark.parametrize(
    ("script", "reason", "words"),
    [
        ("echo one; echo two >&2; exit 7", EndReason.EXIT_CODE, "exited with code 7; its last lines: one\ntwo"),
        ("kill -SEGV $$", EndReason.EXIT_CODE, "SIGSEGV (exit code 139)"),
        ("kill -ABRT $$", EndReason.EXIT_CODE, "SIGABRT (exit code 134)"),
        ("kill -KILL $$", EndReason.KILLED, "SIGKILL"),
    ],
)
def test_exit_codes_and_signals(client: Client, script: str, reason: EndReason, words: str) -> None:
    told = shell(client, script)
    assert told.reason is reason
    assert words in told.message


def test_a_small_file_system_that_is_full_is_not_called_the_disk(client: Client) -> None:
    told = shell(client, "dd if=/dev/zero of=/dev/shm/x bs=1M count=20", shm_mb=4)
    assert told.reason is EndReason.EXIT_CODE
    assert "not the disk" in told.message
    assert "No space left on device" in told.message


def test_a_gpu_where_there_is_none_waits_and_says_why(client: Client) -> None:
    job = client.submit("container", {"image": engine.base_image(), "command": ["true"]}, resources=Resources(gpus=1))
    if client.system_status().gpus:
        pytest.skip("this machine has GPUs")

    def reason() -> str | None:
        wait = client.job(job.id).wait
        return wait.reason if wait is not None else None

    # Until the next plan it is merely next in line.
    until(lambda: reason() not in (None, "next_in_line"), "it is told why it waits")
    assert reason() == "exceeds_machine"
    client.cancel(job.id)
