"""The command line and the client against a real orchestrator, killed when it hurts."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from orchestrator.cli.console import ExitCode
from orchestrator.doctor import port_problem
from orchestrator.domain import JobStatus
from tests import engine
from tests.machine import TIMEOUT_S, Machine, free_port
from tests.waiting import until


@pytest.fixture(scope="module")
def saeforge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    one = Machine(tmp_path_factory.mktemp("home"), executor())
    one.start()
    yield one
    one.end()


def executor() -> str:
    return "docker" if engine.engine_answers() else "process"


@pytest.fixture
def shell(saeforge: Machine, engine_image: str) -> Callable[..., str]:
    """Submits a shell script as a job and returns its id."""

    def submit(script: str) -> str:
        result = saeforge.run("submit", "container", "--image", engine_image, "--", "sh", "-c", script)
        assert result.returncode == 0, result.stderr
        return result.stdout.decode().strip()

    return submit


def test_up_ends_in_order_on_a_signal(saeforge: Machine) -> None:
    assert saeforge.end(signal.SIGINT) == 0
    saeforge.start()


def test_the_key_is_printed_at_the_first_start_alone(saeforge: Machine) -> None:
    key = (saeforge.home / "api-key").read_text().strip()
    saeforge.end()
    assert saeforge.log.read_text().count(key) == 1
    saeforge.start()
    assert saeforge.log.read_text().count(key) == 1


def test_a_second_orchestrator_on_the_same_home_is_refused(saeforge: Machine) -> None:
    result = saeforge.run("up", "--api-only", "--port", str(free_port()))
    assert result.returncode == ExitCode.BAD_INPUT
    assert b"another orchestrator" in result.stderr
    assert result.stdout == b""


def test_a_wrong_key_has_its_exit_code(saeforge: Machine) -> None:
    assert saeforge.run("ls", SAEFORGE_API_KEY="wrong").returncode == ExitCode.NOT_ALLOWED


def test_a_missing_model_names_the_field_and_the_remedy(saeforge: Machine) -> None:
    result = saeforge.run("submit", "train_sae", "--model", "nowhere", "--dataset", "nothing.jsonl", "--json")
    assert result.returncode == ExitCode.BAD_INPUT
    details = json.loads(result.stderr)["details"]
    assert details["field"]
    assert details["suggestion"]


def test_an_unknown_id_is_not_found(saeforge: Machine) -> None:
    assert saeforge.run("show", "11111111-2222-3333-4444-555555555555").returncode == ExitCode.NOT_FOUND


def test_doctor_sees_the_orchestrator_and_its_key(saeforge: Machine) -> None:
    result = saeforge.run("doctor", "--json")
    assert result.returncode == 0
    found = {finding["name"]: finding for finding in json.loads(result.stdout)}
    assert found["orchestrator"]["state"] == "ok"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_dashboard_comes_up_and_ends_with_the_orchestrator(tmp_path: Path, how: signal.Signals) -> None:
    both = Machine(tmp_path, executor())
    dashboard_port = free_port()
    both.environment["SAEFORGE_DASHBOARD_PORT"] = str(dashboard_port)

    def dashboard_answers() -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{dashboard_port}/_stcore/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    both.start("up")
    until(dashboard_answers, "the dashboard answers")
    assert f"http://127.0.0.1:{dashboard_port}" in (tmp_path / "up.log").read_text()
    both.end(how)
    until(lambda: port_problem("127.0.0.1", dashboard_port) is None, "the dashboard is gone")


@pytest.mark.docker
def test_a_followed_job_prints_its_log_and_exits_as_it_ended(saeforge: Machine, shell: Callable[..., str]) -> None:
    job = shell(r"printf '10%%\r20%%\r\n'; echo done")
    result = saeforge.run("logs", "-f", job[:6])
    assert result.returncode == ExitCode.OK
    assert result.stdout == b"10%\r20%\r\ndone\n"


@pytest.mark.docker
def test_a_failed_job_is_exit_code_1_everywhere(saeforge: Machine, shell: Callable[..., str]) -> None:
    job = shell("echo broken; exit 7")
    assert saeforge.run("watch", job).returncode == ExitCode.JOB_FAILED
    assert saeforge.run("logs", "-f", job).returncode == ExitCode.JOB_FAILED
    assert saeforge.run("watch", job, "--json").returncode == ExitCode.JOB_FAILED


@pytest.mark.docker
def test_a_cancelled_job_is_exit_code_3(saeforge: Machine, shell: Callable[..., str]) -> None:
    job = shell("echo up; exec sleep 600")
    watching = saeforge.spawn("watch", job, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert saeforge.run("cancel", job).returncode == 0
    assert watching.wait(TIMEOUT_S) == ExitCode.JOB_CANCELLED


@pytest.mark.docker
def test_acting_on_an_ended_job_is_a_conflict(saeforge: Machine, shell: Callable[..., str]) -> None:
    job = shell("true")
    saeforge.run("watch", job)
    assert saeforge.run("pause", job).returncode == ExitCode.CONFLICT


@pytest.mark.docker
def test_a_purged_job_is_gone(saeforge: Machine, shell: Callable[..., str]) -> None:
    job = shell("true")
    saeforge.run("watch", job)
    assert saeforge.run("purge", "--yes", job).returncode == 0
    assert saeforge.run("show", job).returncode == ExitCode.NOT_FOUND


@pytest.mark.docker
def test_ctrl_c_ends_watching_and_leaves_the_job_alone(saeforge: Machine, shell: Callable[..., str]) -> None:
    job = shell("exec sleep 600")
    with saeforge.client() as client:
        client.wait(job, until={JobStatus.RUNNING}, timeout_s=TIMEOUT_S, poll_s=0.1)
        watching = saeforge.spawn("watch", job, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert watching.stdout is not None
        watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, complaint = watching.communicate(timeout=TIMEOUT_S)
        assert watching.returncode == ExitCode.INTERRUPTED
        assert complaint == b""
        assert client.job(job).status is JobStatus.RUNNING
        client.cancel(job)
        client.wait(job, timeout_s=TIMEOUT_S, poll_s=0.1)


@pytest.mark.docker
def test_following_outlasts_kill_9_of_the_orchestrator_without_losing_a_byte(
    saeforge: Machine, shell: Callable[..., str]
) -> None:
    job = shell('i=0; while [ $i -lt 300 ]; do echo "line $i"; i=$((i+1)); sleep 0.02; done')
    # Unbuffered: what readline had read ahead would be lost to communicate.
    following = saeforge.spawn("logs", "-f", job, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
    assert following.stdout is not None
    first = following.stdout.readline()
    saeforge.end(signal.SIGKILL)
    saeforge.start()
    rest, _ = following.communicate(timeout=TIMEOUT_S)
    assert first + rest == b"".join(b"line %d\n" % number for number in range(300))
    assert following.returncode == ExitCode.OK


@pytest.mark.docker
async def test_both_clients_read_the_same_events_and_log(saeforge: Machine, shell: Callable[..., str]) -> None:
    job = shell("seq 1000")
    with saeforge.client() as client:
        client.wait(job, timeout_s=TIMEOUT_S, poll_s=0.1)
        log = "".join(frame.data for frame in client.follow_log(job))
        assert log == "".join(f"{number}\n" for number in range(1, 1001))
        assert log == "".join([frame.data async for frame in client.afollow_log(job)])
        stored = client.events(job).items
        events = client.afollow_events(job)
        assert [(await anext(events)).id for _ in stored] == [event.id for event in stored]
        await events.aclose()
