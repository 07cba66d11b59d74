"""Whether this machine has what saeforge needs, and what to do where it has not."""

import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from orchestrator.client import Client
from orchestrator.errors import Forbidden, OrchestratorError, Unauthenticated
from orchestrator.quota import can_punch
from orchestrator.settings import Settings
from orchestrator.transport import Unreachable
from orchestrator.views import SystemStatus

if TYPE_CHECKING:
    from docker import DockerClient

    from orchestrator.gpus import Gpu

_NEEDED_BY = {
    "orchestrator": ("fastapi", "uvicorn", "aiosqlite", "docker", "pynvml", "psutil", "prometheus_client"),
    "dashboard": ("streamlit",),
    "worker": ("torch", "transformers", "safetensors", "numpy"),
}
"""Extra -> the modules it brings."""
_ENGINE_LIMITS = {
    "MemoryLimit": "memory",
    "SwapLimit": "swap",
    "CpuCfsQuota": "CPU time",
    "PidsLimit": "processes",
}
"""What an engine tells of itself -> what it can then limit."""
_STUCK = frozenset({"exceeds_machine", "gpu_unknown"})
_ENOUGH_INODES = 100_000
_ENOUGH_FILES = 4096
_HOT_C = 85.0
_OLDEST_PYTHON = (3, 11)
_ENOUGH_DISK_GB = 10.0
_ENOUGH_MEMORY_GB = 4.0


class Finding(BaseModel):
    """What was found out about one thing."""

    name: str
    state: Literal["ok", "warning", "missing"]
    detail: str
    remedy: str | None = None
    """What to do about it."""
    required: bool = False
    """Whether saeforge cannot work without it."""


def examine(settings: Settings) -> list[Finding]:
    """Look at everything. Nothing is changed, and no check takes longer than a few seconds."""
    return [finding for check in CHECKS for finding in check(settings)]


def python(settings: Settings) -> Iterator[Finding]:
    """Python itself."""
    running = sys.version_info[:3]
    version = ".".join(str(part) for part in running)
    if running >= _OLDEST_PYTHON:
        yield Finding(name="python", state="ok", detail=version)
    else:
        yield Finding(name="python", state="missing", detail=version, remedy="install 3.11 or newer", required=True)


def extras(settings: Settings) -> Iterator[Finding]:
    """Which parts of saeforge are installed here."""
    for extra, modules in _NEEDED_BY.items():
        absent = [module for module in modules if importlib.util.find_spec(module) is None]
        if not absent:
            yield Finding(name=f"extra {extra}", state="ok", detail="installed")
            continue
        # A machine that only talks to an orchestrator elsewhere needs none of its own.
        required = extra == "orchestrator" and not settings.url
        # The worker's own packages live in the image; without Docker jobs need them here.
        note = " (needed only by the process executor)" if extra == "worker" else ""
        yield Finding(
            name=f"extra {extra}",
            state="missing" if required else "warning",
            detail=f"not installed: {', '.join(absent)}{note}",
            remedy=f"pip install 'saeforge[{extra}]'",
            required=required,
        )


def docker(settings: Settings) -> Iterator[Finding]:
    """The engine, the worker's image, and whether containers can have GPUs."""
    if importlib.util.find_spec("docker") is None:
        return
    import docker as sdk
    from requests import RequestException

    if (lacking := _engine_socket_problem()) is not None:
        yield lacking
        return
    try:
        engine = sdk.from_env(timeout=5)
    except (sdk.errors.DockerException, RequestException) as error:
        yield _no_engine(str(error))
        return
    try:
        info: dict[str, Any] = engine.info()
        storage, groups = info.get("Driver", "?"), info.get("CgroupVersion", "?")
        told = f"Docker {info.get('ServerVersion')} answers (storage {storage}, control groups {groups})"
        yield Finding(name="docker", state="ok", detail=told)
        yield from _limits(info)
        yield _image(engine, settings.worker_image)
        yield _gpu_runtime(info)
    except (sdk.errors.DockerException, RequestException) as error:
        yield _no_engine(str(error))
    finally:
        engine.close()


def _engine_socket_problem() -> Finding | None:
    """Why the engine's own socket on this machine cannot be used, when it is that and not the engine."""
    scheme, _, path = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").partition("://")
    if scheme != "unix":
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except PermissionError:
            remedy = "sudo usermod -aG docker $USER, then log in again"
            detail = f"no permission to use {path}"
            return Finding(name="docker", state="warning", detail=detail, remedy=remedy)
        except OSError as error:
            return _no_engine(f"{path}: {error.strerror}")
    return None


def _no_engine(why: str) -> Finding:
    remedy = "scripts/install-docker (root, Debian or Ubuntu), or start it; until then jobs run as plain processes"
    return Finding(name="docker", state="warning", detail=f"no engine answers ({why})", remedy=remedy)


def _image(engine: "DockerClient", name: str) -> Finding:
    import docker as sdk

    try:
        image = engine.images.get(name)
    except sdk.errors.ImageNotFound:
        return Finding(name="worker image", state="warning", detail=f"{name} is not there", remedy="make image")
    return Finding(name="worker image", state="ok", detail=f"{name} ({image.attrs['Size'] / 1e9:.1f} GB)")


def _limits(info: dict[str, Any]) -> Iterator[Finding]:
    """Whether the engine can hold jobs to what they were given."""
    lacking = [meaning for key, meaning in _ENGINE_LIMITS.items() if info.get(key) is False]
    if lacking:
        remedy = (
            "enable these control groups in the kernel (on Debian: cgroup_enable=memory swapaccount=1), then reboot"
        )
        detail = f"the engine cannot limit {', '.join(lacking)}: a job may take what others need"
        yield Finding(name="container limits", state="warning", detail=detail, remedy=remedy)
    if info.get("Driver") == "vfs":
        remedy = "use overlay2: vfs copies the whole image for every job"
        yield Finding(name="container storage", state="warning", detail="the slow driver vfs", remedy=remedy)


def _gpu_runtime(info: dict[str, Any]) -> Finding:
    runtimes = set(info.get("Runtimes") or {})
    devices = [device.get("ID", "") for device in info.get("DiscoveredDevices") or []]
    if "nvidia" in runtimes or any(device.startswith("nvidia.com/gpu") for device in devices):
        return Finding(name="nvidia container toolkit", state="ok", detail="containers can have GPUs")
    if shutil.which("nvidia-container-runtime-hook") or shutil.which("nvidia-container-cli"):
        remedy = "nvidia-ctk runtime configure --runtime=docker, then restart Docker"
        detail = "installed, but the engine does not know of it"
        return Finding(name="nvidia container toolkit", state="warning", detail=detail, remedy=remedy)
    remedy = "install nvidia-container-toolkit if this machine has NVIDIA GPUs"
    return Finding(name="nvidia container toolkit", state="warning", detail="not installed", remedy=remedy)


def gpus(settings: Settings) -> Iterator[Finding]:
    """The NVIDIA driver, the GPUs it sees, and how they are."""
    if importlib.util.find_spec("pynvml") is None:
        return
    from orchestrator.nvml import GpuProbe

    report = GpuProbe()()
    if report.error is not None:
        remedy = "install the NVIDIA driver if this machine has a GPU; without one jobs train on the CPU"
        yield Finding(name="gpu", state="warning", detail=f"no NVIDIA driver answers ({report.error})", remedy=remedy)
        return
    for unread in report.unread:
        remedy = "nvidia-smi tells more; a reboot after a driver update often helps"
        yield Finding(name="gpu", state="warning", detail=unread, remedy=remedy)
    if not report.gpus and not report.unread:
        yield Finding(
            name="gpu", state="warning", detail=f"none (driver {report.driver})", remedy="jobs train on the CPU"
        )
    for gpu in report.gpus:
        name = f"gpu {gpu.index}" if gpu.instance is None else f"gpu {gpu.index}:{gpu.instance}"
        about = f"{gpu.name}, {gpu.memory_total_mb / 1024:.0f} GiB, driver {report.driver}"
        yield _gpu(name, about, gpu)


def _gpu(name: str, about: str, gpu: "Gpu") -> Finding:
    if gpu.problems:
        remedy = "nvidia-smi -q and dmesg tell more; a reset or a reboot, or have it exchanged"
        return Finding(name=name, state="warning", detail=f"{about}: {'; '.join(gpu.problems)}", remedy=remedy)
    if gpu.temperature_c is not None and gpu.temperature_c >= _HOT_C:
        remedy = "see that air gets through the machine; it lowers its clocks when it is hot"
        return Finding(name=name, state="warning", detail=f"{about}: {gpu.temperature_c:.0f} °C", remedy=remedy)
    if gpu.processes:
        names = ", ".join(f"{process.pid} {process.name}".strip() for process in gpu.processes)
        about += f"; in use by {names}"
    return Finding(name=name, state="ok", detail=about)


def home(settings: Settings) -> Iterator[Finding]:
    """The directory that everything is kept in."""
    existing = _nearest_existing(settings.home)
    if not os.access(existing, os.W_OK | os.X_OK):
        detail = f"{settings.home}: {existing} is not writable"
        remedy = "change its owner, or set SAEFORGE_HOME to a directory of yours"
        yield Finding(name="home", state="missing", detail=detail, remedy=remedy, required=True)
        return
    made = "" if existing == settings.home else " (made at the first start)"
    yield Finding(name="home", state="ok", detail=f"{settings.home}{made}")
    inodes = os.statvfs(existing)
    if inodes.f_files and inodes.f_favail < _ENOUGH_INODES:
        remedy = "a disk can be out of files while there is room: delete small ones, or set SAEFORGE_HOME elsewhere"
        detail = f"only {inodes.f_favail} more files fit on the disk of {existing}"
        yield Finding(name="files on disk", state="warning", detail=detail, remedy=remedy)
    free_gb = shutil.disk_usage(existing).free / 1e9
    if free_gb >= _ENOUGH_DISK_GB:
        yield Finding(name="disk", state="ok", detail=f"{free_gb:.0f} GB free under {existing}")
    else:
        remedy = "purge old jobs, or set SAEFORGE_HOME to a larger disk"
        yield Finding(
            name="disk", state="warning", detail=f"only {free_gb:.1f} GB free under {existing}", remedy=remedy
        )


def database(settings: Settings) -> Iterator[Finding]:
    """Whether the database is sound, and whether there is a copy of it."""
    if not settings.database.is_file() or importlib.util.find_spec("aiosqlite") is None:
        return
    from orchestrator.store.backup import backups, check, corrupt

    newest = next(iter(backups(settings.backups)), None)
    backup = f"newest backup {newest.created_at:%Y-%m-%d %H:%M} UTC" if newest else "no backup yet"
    if problems := check(settings.database, quick=True):
        error = corrupt(settings.database, problems[0], settings.backups)
        yield Finding(name="database", state="missing", detail=error.message, remedy=error.suggestion, required=True)
    else:
        megabytes = settings.database.stat().st_size / 1e6
        yield Finding(name="database", state="ok", detail=f"sound ({megabytes:.1f} MB, {backup})")


def log_quota(settings: Settings) -> Iterator[Finding]:
    """Whether the logs of jobs can be kept within their quota."""
    existing = _nearest_existing(settings.home)
    if not settings.log_quota_mb or not os.access(existing, os.W_OK | os.X_OK):
        return
    try:
        able = can_punch(existing)
    except OSError as error:
        detail = f"not known: {error.strerror}"
        yield Finding(name="log quota", state="warning", detail=detail, remedy="free space under SAEFORGE_HOME")
        return
    if able:
        yield Finding(name="log quota", state="ok", detail=f"a log keeps {settings.log_quota_mb} MB at most")
    else:
        detail = f"the filesystem of {existing} cannot free the middle of a file: logs grow without bound"
        remedy = "put SAEFORGE_HOME on ext4, XFS, btrfs, ZFS or tmpfs, or watch the disk"
        yield Finding(name="log quota", state="warning", detail=detail, remedy=remedy)


def memory(settings: Settings) -> Iterator[Finding]:
    """How much memory is to be had."""
    total_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    if total_gb >= _ENOUGH_MEMORY_GB:
        yield Finding(name="memory", state="ok", detail=f"{total_gb:.0f} GB")
    else:
        remedy = "lower buffer_tokens and batch_size of your jobs"
        yield Finding(name="memory", state="warning", detail=f"only {total_gb:.1f} GB", remedy=remedy)


def ports_and_orchestrator(settings: Settings) -> Iterator[Finding]:
    """Whether an orchestrator answers and knows our key, and whether the ports are free where none does."""
    try:
        client = Client(timeout_s=3, retries=0)
    except Unauthenticated as error:
        remedy = error.suggestion
        yield Finding(name="api key", state="missing", detail=error.message, remedy=remedy, required=True)
        return
    with client:
        try:
            version = client.health().version
        except Unreachable:
            yield Finding(
                name="orchestrator",
                state="warning",
                detail=f"none answers at {client.url}",
                remedy="saeforge up",
            )
            yield from _ports(settings)
            return
        except OrchestratorError as error:
            remedy = "another service has this port: set SAEFORGE_PORT or SAEFORGE_URL"
            yield Finding(name="orchestrator", state="warning", detail=error.message, remedy=remedy)
            return
        try:
            status = client.system_status()
        except (Unauthenticated, Forbidden) as error:
            detail = f"{client.url} answers, but refuses the key"
            yield Finding(name="orchestrator", state="missing", detail=detail, remedy=error.suggestion, required=True)
            return
        except OrchestratorError as error:
            yield Finding(name="orchestrator", state="warning", detail=error.message, remedy=error.suggestion)
            return
        yield Finding(name="orchestrator", state="ok", detail=f"{version} answers at {client.url} and takes the key")
        yield from _troubles(status)


def _troubles(status: SystemStatus) -> Iterator[Finding]:
    """What keeps a running orchestrator from its work."""
    if status.engine_error:
        remedy = "start the engine: jobs that wait for it go on by themselves"
        yield Finding(name="engine", state="warning", detail=status.engine_error, remedy=remedy)
    if status.disk_error:
        remedy = "free space (saeforge cleanup, saeforge purge): the queue goes on by itself"
        yield Finding(name="room for jobs", state="warning", detail=status.disk_error, remedy=remedy)
    foreign = [gpu for gpu in status.gpus if gpu.foreign_processes]
    for gpu in foreign:
        whose = ", ".join(f"{each.pid} {each.name}".strip() for each in gpu.processes if each.foreign)
        detail = f"GPU {gpu.index} is used from outside and not handed out: {whose or gpu.foreign_processes}"
        yield Finding(name="foreign processes", state="warning", detail=detail, remedy="end them to have it back")
    if stuck := {reason: n for reason, n in status.queue.by_reason.items() if reason in _STUCK}:
        told = ", ".join(f"{n} for {reason}" for reason, n in sorted(stuck.items()))
        remedy = "'saeforge top' shows which; what exceeds the machine has to be submitted with less"
        yield Finding(
            name="queue", state="warning", detail=f"jobs wait that time alone will not start: {told}", remedy=remedy
        )


def open_files(settings: Settings) -> Iterator[Finding]:
    """How many files and connections one process may have open: every viewer is one, and every job that runs."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= _ENOUGH_FILES or soft == resource.RLIM_INFINITY:
        yield Finding(name="open files", state="ok", detail=f"{soft} at a time")
        return
    remedy = (
        f"ulimit -n {_ENOUGH_FILES if hard > _ENOUGH_FILES else hard} before 'saeforge up', or LimitNOFILE= in its unit"
    )
    yield Finding(name="open files", state="warning", detail=f"only {soft} at a time", remedy=remedy)


def _ports(settings: Settings) -> Iterator[Finding]:
    wanted = (
        ("SAEFORGE_PORT", settings.host, settings.port),
        ("SAEFORGE_DASHBOARD_PORT", settings.dashboard_host, settings.dashboard_port),
    )
    for name, host, port in wanted:
        if (problem := port_problem(host, port)) is None:
            yield Finding(name=f"port {port}", state="ok", detail="free")
        else:
            detail = f"cannot listen on {host}:{port}: {problem}"
            yield Finding(name=f"port {port}", state="warning", detail=detail, remedy=f"set {name} to a free port")


def port_problem(host: str, port: int) -> str | None:
    """Why nothing could listen there now, in the system's words; none when it could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def _nearest_existing(path: Path) -> Path:
    return path if path.exists() else _nearest_existing(path.parent)


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    python,
    extras,
    docker,
    gpus,
    home,
    database,
    memory,
    open_files,
    ports_and_orchestrator,
)
