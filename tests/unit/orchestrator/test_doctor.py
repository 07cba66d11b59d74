"""What doctor finds, on this machine as it is and as tests make it."""

import json
import os
import resource
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator import doctor
from orchestrator.cli import app
from orchestrator.cli.console import ExitCode
from orchestrator.doctor import Finding
from orchestrator.gpus import Gpu, GpuProcess, GpuReport
from orchestrator.nvml import GpuProbe
from orchestrator.settings import Settings
from tests.scripted_api import HEALTH, Answer, Script, error_json, http_server
from tests.unit.orchestrator.test_top import GPU, system


@pytest.fixture(autouse=True)
def _nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAEFORGE_HOME", str(tmp_path))
    monkeypatch.setenv("SAEFORGE_URL", "http://127.0.0.1:1")


def found(check: object, settings: Settings | None = None) -> dict[str, Finding]:
    return {finding.name: finding for finding in check(settings or Settings())}  # type: ignore[operator]


def test_every_shortcoming_comes_with_what_to_do() -> None:
    assert [
        finding.name for finding in doctor.examine(Settings()) if finding.state != "ok" and not finding.remedy
    ] == []


def test_a_missing_extra_names_the_modules_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    worker = found(doctor.extras)["extra worker"]
    assert worker.state == "warning"
    assert "torch" in worker.detail
    assert worker.remedy == "pip install 'saeforge[worker]'"


@pytest.mark.parametrize(("url", "state"), [("", "missing"), ("http://elsewhere:8000", "warning")])
def test_the_orchestrators_packages_are_required_where_it_is_to_run(
    monkeypatch: pytest.MonkeyPatch, url: str, state: str
) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "fastapi" else object())
    extra = found(doctor.extras, Settings(url=url))["extra orchestrator"]
    assert (extra.state, extra.required) == (state, state == "missing")


def test_docker_away_is_a_warning_with_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    finding = found(doctor.docker)["docker"]
    assert (finding.state, finding.required) == ("warning", False)
    assert "plain processes" in str(finding.remedy)


def test_a_socket_without_permission_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden(socket.socket):
        """What everyone but root meets."""

        def connect(self, _: object) -> None:
            raise PermissionError

    monkeypatch.setattr(doctor.socket, "socket", Forbidden)
    monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
    assert "docker $USER" in str(found(doctor.docker)["docker"].remedy)


@pytest.mark.parametrize(
    ("info", "state"),
    [
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, "ok"),
        ({"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"ID": "nvidia.com/gpu=0"}]}, "ok"),
        ({"Runtimes": {"runc": {}}}, "warning"),
        ({}, "warning"),
    ],
)
def test_the_container_toolkit_is_seen_through_the_engine(info: dict[str, object], state: str) -> None:
    assert doctor._gpu_runtime(info).state == state


def test_a_home_that_is_not_there_yet_is_fine(tmp_path: Path) -> None:
    home = found(doctor.home, Settings(home=tmp_path / "a" / "b"))["home"]
    assert home.state == "ok"
    assert not (tmp_path / "a").exists()


def test_a_home_that_cannot_be_written_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    home = found(doctor.home)["home"]
    assert (home.state, home.required) == ("missing", True)


def test_little_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ENOUGH_DISK_GB", 1e9)
    assert found(doctor.home)["disk"].state == "warning"


def test_a_taken_port_names_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = found(doctor.ports_and_orchestrator, Settings(dashboard_port=port))[f"port {port}"]
    assert finding.state == "warning"
    assert "SAEFORGE_DASHBOARD_PORT" in str(finding.remedy)


def test_an_orchestrator_that_refuses_the_key_is_something_required(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(Answer(body=HEALTH), Answer(401, error_json("unauthenticated")))
    with http_server(script) as url:
        monkeypatch.setenv("SAEFORGE_URL", url)
        finding = found(doctor.ports_and_orchestrator)["orchestrator"]
    assert (finding.state, finding.required) == ("missing", True)


def test_a_key_that_cannot_be_sent_is_something_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEFORGE_API_KEY", "ключ")
    assert found(doctor.ports_and_orchestrator)["api key"].required


def test_another_service_on_the_port_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server(Script(Answer(200, b"hello"))) as url:
        monkeypatch.setenv("SAEFORGE_URL", url)
        assert "another service" in str(found(doctor.ports_and_orchestrator)["orchestrator"].remedy)


def test_the_command_prints_json_and_fails_only_for_what_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = Finding(name="x", state="missing", detail="", required=True)
    monkeypatch.setattr(doctor, "CHECKS", (lambda _: iter([lacking]),))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == ExitCode.JOB_FAILED
    assert json.loads(result.stdout)[0]["state"] == "missing"

    optional = lacking.model_copy(update={"state": "warning", "required": False})
    monkeypatch.setattr(doctor, "CHECKS", (lambda _: iter([optional]),))
    assert CliRunner().invoke(app, ["doctor"]).exit_code == ExitCode.OK


@pytest.mark.parametrize(("able", "state"), [(True, "ok"), (False, "warning")])
def test_whether_logs_can_be_bounded_is_told(monkeypatch: pytest.MonkeyPatch, able: bool, state: str) -> None:
    monkeypatch.setattr(doctor, "can_punch", lambda folder: able)
    finding = found(doctor.log_quota)["log quota"]
    assert (finding.state, finding.remedy is None) == (state, able)


def test_without_a_quota_nothing_is_said_of_it() -> None:
    assert found(doctor.log_quota, Settings(log_quota_mb=0)) == {}


def test_what_the_engine_cannot_limit_is_told() -> None:
    told = list(doctor._limits({"MemoryLimit": False, "SwapLimit": True, "Driver": "vfs"}))
    assert [finding.name for finding in told] == ["container limits", "container storage"]
    assert "memory" in told[0].detail
    assert "swap" not in told[0].detail
    assert list(doctor._limits({"MemoryLimit": True, "Driver": "overlay2"})) == []


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({}, "ok", "140 GiB"),
        ({"processes": (GpuProcess(5, "games"),)}, "ok", "in use by 5 games"),
        ({"temperature_c": 91.0}, "warning", "91 °C"),
        ({"lost": True, "problems": ("it is lost: GPU is lost",)}, "warning", "it is lost"),
    ],
)
def test_each_gpu_is_told_with_how_it_is(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], state: str, words: str
) -> None:
    gpu = Gpu("GPU-a", 1, "H200", 143_360, 0, **changes)
    monkeypatch.setattr(GpuProbe, "__call__", lambda _: GpuReport((gpu,), driver="560.35"))
    told = found(doctor.gpus)["gpu 1"]
    assert told.state == state
    assert words in told.detail


def test_a_gpu_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GpuProbe, "__call__", lambda _: GpuReport(unread=("GPU 0 cannot be read: no permission",)))
    assert "no permission" in found(doctor.gpus)["gpu"].detail


def test_what_keeps_a_running_orchestrator_from_its_work_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = GPU | {"lost": False}
    told = system(
        gpus=[busy], engine=None, engine_error="no answer", disk_error="full", queue={"by_reason": {"gpu_unknown": 2}}
    )
    with http_server(Script(Answer(body=HEALTH), Answer(body=told))) as url:
        monkeypatch.setenv("SAEFORGE_URL", url)
        seen = found(doctor.ports_and_orchestrator)
    assert seen["engine"].detail == "no answer"
    assert seen["room for jobs"].detail == "full"
    assert "12 games" in seen["foreign processes"].detail
    assert "2 for gpu_unknown" in seen["queue"].detail


def test_too_few_open_files_are_told_with_the_number_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    told = found(doctor.open_files)["open files"]
    assert (told.state, "ulimit -n 1024" in str(told.remedy)) == ("warning", True)


def test_a_disk_that_is_out_of_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimpleNamespace(f_files=1000, f_favail=3, f_bavail=1 << 30, f_blocks=1 << 31, f_bfree=1 << 30, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    assert "only 3 more files" in found(doctor.home)["files on disk"].detail
