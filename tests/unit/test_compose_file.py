"""The compose files say what the code says: settings, sandbox and image are defined once."""

import re
import runpy
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from orchestrator.executors.base import LaunchSpec
from orchestrator.executors.container_request import container_request
from orchestrator.executors.docker import container_user
from orchestrator.executors.host_paths import HostPaths
from orchestrator.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "compose"
TEXT = (COMPOSE / "docker-compose.yml").read_text()
ENV_EXAMPLE = runpy.run_path(str(ROOT / "scripts" / "env_example.py"))
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
UNITS = {"k": 2**10, "m": 2**20, "g": 2**30}

SETTINGS = {f"SAEFORGE_{name.upper()}" for name in Settings.model_fields}
SET_BY_COMPOSE = {f"SAEFORGE_{name.upper()}" for name in ENV_EXAMPLE["SET_BY_COMPOSE"]}


def services() -> dict[str, Any]:
    """The compose file with every variable at its default."""
    parsed = yaml.safe_load(VARIABLE.sub(lambda match: match[2] or "", TEXT))
    found: dict[str, Any] = parsed["services"]
    return found


def passed_on(service: str) -> set[str]:
    return {item.split("=")[0] for item in services()[service]["environment"]}


def size(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]]


def test_the_worker_service_is_the_sandbox_that_the_orchestrator_starts_jobs_in() -> None:
    spec = LaunchSpec(
        job_id=UUID(int=0),
        attempt=1,
        name="saeforge-test-1",
        image=Settings.model_fields["worker_image"].default,
        argv=("true",),
        run_dir=Path("/srv/saeforge/runs/x/1"),
    )
    request = container_request(spec, home_id="x", user=container_user("", 0, 0), paths=HostPaths())
    host = request["HostConfig"]
    worker = services()["worker"]
    told = {
        "Image": worker.pop("image"),
        "User": worker.pop("user"),
        "StopSignal": worker.pop("stop_signal"),
        "CapDrop": worker.pop("cap_drop"),
        "SecurityOpt": worker.pop("security_opt"),
        "ReadonlyRootfs": worker.pop("read_only"),
        "Tmpfs": dict([worker.pop("tmpfs")[0].split(":", 1)]),
        "Init": worker.pop("init"),
        "IpcMode": worker.pop("ipc"),
        "OomScoreAdj": worker.pop("oom_score_adj"),
        "NetworkMode": worker.pop("network_mode"),
        "PidsLimit": worker.pop("pids_limit"),
        "ShmSize": size(worker.pop("shm_size")),
        "RestartPolicy": {"Name": worker.pop("restart")},
        "LogConfig": {"Type": worker["logging"]["driver"], "Config": worker.pop("logging")["options"]},
    }
    assert told == {key: (request if key in request else host)[key] for key in told}
    assert worker.keys() == {"profiles", "build"}, "nothing beside the sandbox"
    per_job = {"Mounts", "AutoRemove"}
    assert host.keys() - per_job <= told.keys(), "nothing of the sandbox is missing"


def test_the_worker_is_built_from_the_one_dockerfile() -> None:
    build = services()["worker"]["build"]
    assert (COMPOSE / build["context"] / build["dockerfile"]).resolve() == ROOT / "worker_image" / "Dockerfile"


def test_the_settings_example_is_current() -> None:
    assert (COMPOSE / ".env.example").read_text() == ENV_EXAMPLE["content"](), "run: python scripts/env_example.py"


def test_every_variable_of_the_compose_file_is_in_the_settings_example() -> None:
    listed = set(re.findall(r"^#(\w+)=", (COMPOSE / ".env.example").read_text(), re.MULTILINE))
    assert {match[1] for match in VARIABLE.finditer(TEXT)} <= listed


def test_every_setting_reaches_the_orchestrator_or_the_dashboard() -> None:
    known = passed_on("orchestrator") | passed_on("dashboard")
    assert known >= SETTINGS - SET_BY_COMPOSE
    assert {name for name in known if name.startswith("SAEFORGE_")} <= SETTINGS


def test_the_compose_files_defaults_are_the_settings_own() -> None:
    fields = Settings.model_fields
    for match in VARIABLE.finditer(TEXT):
        name = match[1].removeprefix("SAEFORGE_").lower()
        if name in ENV_EXAMPLE["OWN_DEFAULTS"]:
            assert match[2] == ENV_EXAMPLE["OWN_DEFAULTS"][name], match[0]
        elif name in fields and name != "container_user":
            assert match[2] == str(fields[name].default), match[0]


@pytest.mark.parametrize("service", ["orchestrator", "dashboard"])
def test_ports_are_published_on_loopback_only(service: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in services()[service]["ports"])


def test_the_engines_socket_is_the_orchestrators_alone() -> None:
    holders = [name for name, service in services().items() if "docker.sock" in str(service.get("volumes", ""))]
    assert holders == ["orchestrator"]


def test_the_dashboard_only_reads_the_home() -> None:
    assert [volume.rsplit(":", 1)[1] for volume in services()["dashboard"]["volumes"]] == ["ro"]


TLS = (COMPOSE / "tls.yml").read_text()
PROXY = yaml.safe_load(VARIABLE.sub(lambda match: match[2] or "", TLS))["services"]


def test_the_proxy_runs_the_configuration_that_is_tested() -> None:
    mounted = [volume for volume in PROXY["proxy"]["volumes"] if ":/etc/nginx/templates/" in volume]
    assert mounted == ["./nginx.conf:/etc/nginx/templates/saeforge.conf.template:ro"]
    wanted = set(re.findall(r"\$\{(PROXY_\w+)\}", (COMPOSE / "nginx.conf").read_text()))
    assert wanted == {item.split("=")[0] for item in PROXY["proxy"]["environment"]}


def test_only_the_proxys_own_address_is_believed() -> None:
    address = PROXY["proxy"]["networks"]["edge"]["ipv4_address"]
    assert f"SAEFORGE_TRUSTED_PROXIES={address}" in PROXY["orchestrator"]["environment"]
    for service in ("orchestrator", "dashboard"):
        own = PROXY[service]["networks"]["edge"]["ipv4_address"]
        assert own != address
        assert f"PROXY_{service.upper()}={own}:" in "\n".join(PROXY["proxy"]["environment"])


def test_every_variable_of_the_tls_file_is_in_the_settings_example() -> None:
    listed = dict(re.findall(r"^#(\w+)=(.*)$", (COMPOSE / ".env.example").read_text(), re.MULTILINE))
    for match in VARIABLE.finditer(TLS):
        assert match[2] == listed[match[1]], match[0]


WITH_BOARD = (COMPOSE / "tensorboard.yml").read_text()
BOARD = yaml.safe_load(VARIABLE.sub(lambda match: match[2] or "", WITH_BOARD))["services"]


def test_tensorboard_only_reads_the_runs_where_the_dashboard_links_to_it() -> None:
    board = BOARD["tensorboard"]
    [volume], [port] = board["volumes"], board["ports"]
    assert volume == "/srv/saeforge/runs:/srv/saeforge/runs:ro"
    assert board["command"][board["command"].index("--logdir") + 1] == "/srv/saeforge/runs"
    assert BOARD["orchestrator"]["environment"] == [f"SAEFORGE_TENSORBOARD_URL=http://{port.rsplit(':', 1)[0]}"]
    # What is sealed of the job containers is of this one, but for the network.
    worker = services()["worker"]
    for name in ("image", "user", "cap_drop", "security_opt", "read_only", "init"):
        assert board[name] == worker[name], name
