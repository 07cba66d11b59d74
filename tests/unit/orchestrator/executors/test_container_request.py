"""The request that creates a container, without an engine."""

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

import pytest

from orchestrator.executors.base import LaunchSpec
from orchestrator.executors.container_request import HARDENING, container_request
from orchestrator.executors.host_paths import HostPaths, NotOnHost
from worker_image.contract.launch import launcher_argv

JOB = UUID("11111111-2222-4333-8444-555555555555")
RUN_DIR = Path("/home/user/.saeforge/runs") / str(JOB) / "2"
SPEC = LaunchSpec(
    job_id=JOB,
    attempt=2,
    name=f"saeforge-{JOB}-2",
    image="saeforge-worker:latest",
    argv=("python", "-m", "worker_image.run", str(RUN_DIR)),
    run_dir=RUN_DIR,
)


def request(spec: LaunchSpec = SPEC, paths: HostPaths | None = None) -> dict[str, Any]:
    return container_request(spec, home_id="this-home", user="1000:1000", paths=paths or HostPaths())


def env(spec: LaunchSpec) -> dict[str, str]:
    return dict(item.split("=", 1) for item in request(spec)["Env"])


def test_the_same_spec_always_makes_the_same_request() -> None:
    assert request() == request()


def test_every_container_gets_the_whole_hardening() -> None:
    assert HARDENING.items() <= request()["HostConfig"].items()


def test_the_container_is_labelled_with_home_job_and_attempt() -> None:
    assert request()["Labels"] == {
        "saeforge.home": "this-home",
        "saeforge.job": str(JOB),
        "saeforge.attempt": "2",
    }


def test_it_runs_through_the_launcher_and_nothing_of_the_images_own_command_is_left() -> None:
    assert request()["Entrypoint"] == launcher_argv(str(RUN_DIR), SPEC.argv, mirror=True)
    assert request()["Cmd"] == []


def test_it_runs_as_the_given_user() -> None:
    assert request()["User"] == "1000:1000"


def test_it_is_never_removed_or_restarted_by_the_engine() -> None:
    host = request()["HostConfig"]
    assert (host["AutoRemove"], host["RestartPolicy"]) == (False, {"Name": "no"})


def test_there_is_no_network_unless_it_was_asked_for() -> None:
    assert request()["HostConfig"]["NetworkMode"] == "none"
    assert request(replace(SPEC, network=True))["HostConfig"]["NetworkMode"] == "bridge"


def test_only_the_run_directory_is_writable_and_every_path_stays_the_same() -> None:
    model = Path("/data/models/tiny")
    mounts = request(replace(SPEC, read_only=(model,)))["HostConfig"]["Mounts"]
    assert mounts == [
        {"Type": "bind", "Source": str(RUN_DIR), "Target": str(RUN_DIR), "ReadOnly": False},
        {"Type": "bind", "Source": str(model), "Target": str(model), "ReadOnly": True},
    ]


def test_what_it_shares_with_others_is_writable_too() -> None:
    cache = Path("/root/.saeforge/cache/activations")
    host_config = request(replace(SPEC, read_write=(cache,)))["HostConfig"]
    assert {"Type": "bind", "Source": str(cache), "Target": str(cache), "ReadOnly": False} in host_config["Mounts"]
    assert "/root" in host_config["Tmpfs"]


def test_sources_are_the_hosts_paths_when_the_orchestrator_runs_in_a_container() -> None:
    paths = HostPaths(((Path("/home/user/.saeforge"), PurePosixPath("/srv/saeforge")),))
    (mount,) = request(paths=paths)["HostConfig"]["Mounts"]
    assert mount["Source"] == f"/srv/saeforge/runs/{JOB}/2"
    assert mount["Target"] == str(RUN_DIR)


def test_a_path_that_the_host_cannot_see_is_refused() -> None:
    paths = HostPaths(((Path("/home/user/.saeforge"), PurePosixPath("/srv/saeforge")),))
    with pytest.raises(NotOnHost, match="/elsewhere"):
        request(replace(SPEC, read_only=(Path("/elsewhere/model"),)), paths)


def test_a_home_below_roots_own_is_reachable_for_another_user() -> None:
    assert "/root" not in request()["HostConfig"]["Tmpfs"]
    tmpfs = request(replace(SPEC, run_dir=Path("/root/.saeforge/runs/x/1")))["HostConfig"]["Tmpfs"]
    assert "uid=1000,gid=1000" in tmpfs["/root"]
    assert tmpfs["/tmp"] == HARDENING["Tmpfs"]["/tmp"]


def test_limits_are_set_as_asked_and_swap_is_never_added() -> None:
    host = request(replace(SPEC, memory_mb=100, cpus=1.5, pids=50, shm_mb=64))["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 100 * 2**20
    assert (host["NanoCpus"], host["PidsLimit"], host["ShmSize"]) == (1_500_000_000, 50, 64 * 2**20)


def test_what_was_not_limited_is_left_out() -> None:
    assert not {"Memory", "MemorySwap", "NanoCpus", "DeviceRequests"} & request()["HostConfig"].keys()


def test_gpus_are_given_by_uuid_and_by_nothing_else() -> None:
    spec = replace(SPEC, gpus=("GPU-a", "GPU-b"))
    (devices,) = request(spec)["HostConfig"]["DeviceRequests"]
    assert devices["DeviceIDs"] == ["GPU-a", "GPU-b"]
    assert "Count" not in devices
    assert "NVIDIA_VISIBLE_DEVICES" not in env(spec)


def test_without_gpus_an_image_made_for_them_gets_none() -> None:
    assert env(replace(SPEC, env=(("NVIDIA_VISIBLE_DEVICES", "all"),)))["NVIDIA_VISIBLE_DEVICES"] == "void"


def test_the_jobs_own_variables_win() -> None:
    assert env(replace(SPEC, env=(("HOME", "/elsewhere"), ("X", "a=b"))))["HOME"] == "/elsewhere"
    assert env(replace(SPEC, env=(("X", "a=b"),)))["X"] == "a=b"


def test_the_hub_is_offline_exactly_for_our_worker_without_network() -> None:
    assert env(SPEC)["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in env(replace(SPEC, network=True))
    assert "HF_HUB_OFFLINE" not in env(replace(SPEC, builtin=False))


def test_secrets_are_files_that_the_container_can_only_read() -> None:
    lent = Path("/dev/shm/saeforge/x/saeforge-1-1")
    spec = replace(SPEC, secrets=lent, secret_names=("HF_TOKEN",))
    mount = {"Type": "bind", "Source": str(lent), "Target": "/run/secrets", "ReadOnly": True}
    assert mount in request(spec)["HostConfig"]["Mounts"]
    assert env(spec)["SAEFORGE_SECRETS_DIR"] == "/run/secrets"
    assert env(spec)["HF_TOKEN_PATH"] == "/run/secrets/HF_TOKEN"


def test_without_secrets_nothing_is_mounted_for_them() -> None:
    assert "SAEFORGE_SECRETS_DIR" not in env(SPEC)
    assert not any(mount["Target"] == "/run/secrets" for mount in request()["HostConfig"]["Mounts"])
    assert "HF_TOKEN_PATH" not in env(replace(SPEC, secrets=Path("/dev/shm/x"), secret_names=("OTHER",)))
