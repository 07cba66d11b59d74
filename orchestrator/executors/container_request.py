"""The exact request that creates an attempt's container. Pure: tested without an engine.

The dictionary is the body of the engine's ``POST /containers/create``, so nothing stands between what is tested here
and what the engine is told.
"""

from pathlib import Path
from typing import Any, Final

from orchestrator.executors.base import LaunchSpec, attempt_env
from orchestrator.executors.host_paths import HostPaths
from worker_image.contract.launch import launcher_argv

HOME_LABEL: Final = "saeforge.home"
JOB_LABEL: Final = "saeforge.job"
ATTEMPT_LABEL: Final = "saeforge.attempt"

SECRETS_AT: Final = "/run/secrets"
"""Where a job sees the files of its secrets, as in a Compose service."""

HARDENING: Final[dict[str, Any]] = {
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges:true"],
    "ReadonlyRootfs": True,
    # exec: compiled kernels are loaded from here.
    "Tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777,size=1g"},
    "Init": True,
    "IpcMode": "private",
    # When the host runs out of memory the kernel is to choose a job, not the orchestrator.
    "OomScoreAdj": 500,
    "RestartPolicy": {"Name": "no"},
    "LogConfig": {"Type": "local", "Config": {"max-size": "10m", "max-file": "1", "compress": "false"}},
}
"""What every job's container gets, whatever it asks for; the engine's default seccomp profile stays in force.

The engine's own log is a bounded convenience; the whole log is the file in the run directory.
"""


def container_request(spec: LaunchSpec, *, home_id: str, user: str, paths: HostPaths) -> dict[str, Any]:
    """The engine's request for one attempt.

    Raises:
        NotOnHost: a path to mount is on no volume that the engine can see.
    """
    host_config: dict[str, Any] = HARDENING | {
        "Tmpfs": HARDENING["Tmpfs"] | _way_into_root_home(spec, user),
        "NetworkMode": "bridge" if spec.network else "none",
        "PidsLimit": spec.pids,
        "ShmSize": spec.shm_mb * 2**20,
        "Mounts": [
            _bind(spec.run_dir, paths, read_only=False),
            *(_bind(path, paths, read_only=False) for path in spec.read_write),
            *(_bind(path, paths, read_only=True) for path in spec.read_only),
            *([_bind(spec.secrets, paths, read_only=True) | {"Target": SECRETS_AT}] if spec.secrets else []),
        ],
        "AutoRemove": False,
    }
    if spec.memory_mb is not None:
        # Equal limits: no swap, so that exceeding the limit ends the job instead of slowing the machine.
        host_config |= {"Memory": spec.memory_mb * 2**20, "MemorySwap": spec.memory_mb * 2**20}
    if spec.cpus is not None:
        host_config["NanoCpus"] = round(spec.cpus * 1e9)
    if spec.gpus:
        host_config["DeviceRequests"] = [
            {"Driver": "", "DeviceIDs": list(spec.gpus), "Capabilities": [["gpu", "compute", "utility"]]}
        ]
    env = {"HOME": "/tmp", "TMPDIR": "/tmp", "USER": "saeforge"} | attempt_env(spec, SECRETS_AT)
    if not spec.gpus:
        # Images made for GPUs ask for all of them, which an engine with NVIDIA's default runtime would grant.
        env["NVIDIA_VISIBLE_DEVICES"] = "void"
    return {
        "Image": spec.image,
        "Entrypoint": launcher_argv(str(spec.run_dir), spec.argv, mirror=True),
        "Cmd": [],
        "Env": [f"{name}={value}" for name, value in env.items()],
        "User": user,
        "Labels": {HOME_LABEL: home_id, JOB_LABEL: str(spec.job_id), ATTEMPT_LABEL: str(spec.attempt)},
        # The image's own choices would change what stop means, or keep probing a job.
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": host_config,
    }


def _way_into_root_home(spec: LaunchSpec, user: str) -> dict[str, str]:
    """What stands before the image's /root when something is mounted below it.

    Images close theirs to all but root. Runtimes give a tmpfs the mode of what it covers, so it belongs to the
    container's user.
    """
    if not any(path.is_relative_to("/root") for path in (spec.run_dir, *spec.read_write, *spec.read_only)):
        return {}
    uid, _, gid = user.partition(":")
    return {"/root": f"rw,noexec,nosuid,nodev,mode=755,size=64k,uid={uid},gid={gid or uid}"}


def _bind(path: Path, paths: HostPaths, *, read_only: bool) -> dict[str, Any]:
    """Mount ``path`` at the same path. A mount and not a bind string: a missing source is an error, never created."""
    return {
        "Type": "bind",
        "Source": paths.translate(path),
        "Target": str(path),
        "ReadOnly": read_only,
    }
