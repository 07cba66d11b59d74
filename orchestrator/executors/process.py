"""Attempts as plain processes, for machines without a container engine.

The same contract as in a container, but **no isolation and no limits**: a job is a process of the orchestrator's own
user, which can read and write what that user can, use the network, and take all memory. Only saeforge's own worker
runs here; any other image needs an engine.

Each attempt has a shim (``process_shim``) as its parent, which outlives the orchestrator and records the exit code.
Its files are in ``.process`` inside the run directory, so that run directories alone tell what runs. Needs Linux.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

import psutil

from orchestrator import faults
from orchestrator.errors import EngineUnavailable, LaunchFailed
from orchestrator.executors import process_shim
from orchestrator.executors.base import LaunchSpec, Observation, Owned, RunState, Told, Usage, attempt_env, untold
from worker_image.contract.launch import launcher_argv

FOLDER: Final = ".process"
POLL_S: Final = 0.05
KILL_TIMEOUT_S: Final = 5.0
"""How long a shim may take to kill its program before it is killed itself."""
_OWN_SETTINGS: Final = ("SAEFORGE_", "GPU_ORCHESTRATOR_")


def process_env(spec: LaunchSpec, inherited: Mapping[str, str]) -> dict[str, str]:
    """The program's environment: the orchestrator's without its own settings (its API key is among them), then the
    attempt's, and the GPUs it holds and no others."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(_OWN_SETTINGS)}
    return kept | attempt_env(spec) | {"CUDA_VISIBLE_DEVICES": ",".join(spec.gpus)}


def process_argv(spec: LaunchSpec) -> list[str]:
    """The program, started by the launcher; saeforge's own worker runs on the orchestrator's own interpreter.

    Raises:
        LaunchFailed: the attempt wants an image.
    """
    if not spec.builtin:
        raise LaunchFailed(
            f"image {spec.image} needs a container engine, and jobs run as plain processes here",
            field="image",
            suggestion="install and start Docker (make demo DOCKER=install), then start the orchestrator again",
        )
    program = (sys.executable, *spec.argv[1:]) if spec.argv[0] == "python" else spec.argv
    return launcher_argv(str(spec.run_dir), program, mirror=False)


class ProcessExecutor:
    """Runs every attempt as a detached process group of this machine."""

    name = "process"

    def __init__(self, home: Path) -> None:
        self._runs = home / "runs"

    async def check(self) -> str:
        return "plain processes (no isolation)"

    async def prepare(self, image: str, told: Told = untold) -> None:
        """Nothing to do: the worker is installed beside the orchestrator."""

    async def launch(self, spec: LaunchSpec) -> str:
        """Start the attempt, or adopt the one of its run directory; return ``<job_id>/<attempt>``.

        Raises:
            LaunchFailed: the attempt wants an image, or the process could not be started.
        """
        argv = process_argv(spec)
        try:
            words = await asyncio.to_thread(_start, spec, argv)
        except OSError as why:
            raise LaunchFailed(f"the process could not be started: {why}") from why
        if words is not None:
            raise LaunchFailed(f"the process could not be started: {words}")
        return f"{spec.job_id}/{spec.attempt}"

    async def inspect(self, handle: str) -> Observation:
        return await asyncio.to_thread(self._look, handle)

    async def states(self, handles: Collection[str]) -> dict[str, RunState]:
        return await asyncio.to_thread(lambda: {handle: self._look(handle).state for handle in handles})

    async def changes(self) -> AsyncGenerator[None]:
        """Nothing is told."""
        return
        yield  # makes it a generator

    async def stop(self, handle: str, grace_s: float) -> None:
        await self._end(handle, signal.SIGTERM, grace_s)
        await self._kill(handle)

    async def remove(self, handle: str) -> None:
        await self._kill(handle)
        faults.reach("process_killed")
        await asyncio.to_thread(shutil.rmtree, self._folder(handle), ignore_errors=True)

    async def list_owned(self) -> list[Owned]:
        return await asyncio.to_thread(self._owned)

    async def whose(self, pids: Collection[int], handles: Collection[str]) -> dict[int, str]:
        return await asyncio.to_thread(self._whose, pids, handles)

    def _whose(self, pids: Collection[int], handles: Collection[str]) -> dict[int, str]:
        """By descent: whatever a program starts and leaves stays below its shim."""
        shims = {pid: handle for handle in handles if (pid := _shim(self._folder(handle))) is not None}
        found = {pid: next((shims[each] for each in _line_of(pid) if each in shims), None) for pid in pids}
        return {pid: handle for pid, handle in found.items() if handle is not None}

    async def usage(self, handle: str) -> Usage | None:
        return await asyncio.to_thread(self._usage, handle)

    def _usage(self, handle: str) -> Usage | None:
        """Of the shim and all below it; what the dead among them used is counted by who reaped them."""
        pid = _shim(self._folder(handle))
        if pid is None or self._look(handle).state is not RunState.RUNNING:
            return None
        cpu_s, memory_bytes = 0.0, 0
        try:
            shim = psutil.Process(pid)
            family = (shim, *shim.children(recursive=True))
        except psutil.NoSuchProcess:
            return None
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times, memory = process.cpu_times(), process.memory_info()
                cpu_s += times.user + times.system + times.children_user + times.children_system
                memory_bytes += memory.rss
        return Usage(time.time(), cpu_s, memory_bytes)

    async def facts(self) -> dict[str, str]:
        return {"isolation": "none", "limits": "none"}

    async def close(self) -> None:
        """Nothing to let go of. Attempts go on."""

    async def _kill(self, handle: str) -> None:
        """Have the shim kill the program and record it; a shim that does not answer is killed too."""
        if await self._end(handle, signal.SIGUSR1, KILL_TIMEOUT_S):
            return
        if not await self._end(handle, signal.SIGKILL, KILL_TIMEOUT_S):
            raise EngineUnavailable(f"the process of attempt {handle} does not die; the kernel holds it")

    async def _end(self, handle: str, signum: signal.Signals, patience_s: float) -> bool:
        """Signal the shim and wait; whether the attempt no longer runs."""
        deadline = time.monotonic() + patience_s
        self._signal(handle, signum)
        while (await self.inspect(handle)).state is RunState.RUNNING:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    def _folder(self, handle: str) -> Path:
        job_id, _, attempt = handle.partition("/")
        return self._runs / str(UUID(job_id)) / str(int(attempt)) / FOLDER

    def _look(self, handle: str) -> Observation:
        folder = self._folder(handle)
        pid = _shim(folder)
        # In this order: a shim that ends between the two looks has left its record.
        try:
            ended = json.loads((folder / process_shim.EXIT).read_text())
        except FileNotFoundError:
            ended = None
        if ended is not None:
            return Observation(RunState.EXITED, exit_code=ended["exit_code"])
        if pid is not None:
            return Observation(RunState.RUNNING)
        if not (folder / process_shim.STARTED).exists():
            return Observation(RunState.MISSING)
        return Observation(
            RunState.EXITED, error="its process is gone and left no exit code: killed, or the machine restarted"
        )

    def _signal(self, handle: str, signum: signal.Signals) -> None:
        pid = _shim(self._folder(handle))
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                if _shim(self._folder(handle)) == pid:  # the descriptor is the shim's, not a later process's
                    signal.pidfd_send_signal(pidfd, signum)
            finally:
                os.close(pidfd)

    def _owned(self) -> list[Owned]:
        found = []
        for record in self._runs.glob(f"*/*/{FOLDER}/{process_shim.STARTED}"):
            attempt = record.parent.parent
            handle = f"{attempt.parent.name}/{attempt.name}"
            with contextlib.suppress(ValueError):  # somebody's copy of a run directory is none of ours
                found.append(Owned(UUID(attempt.parent.name), int(attempt.name), handle))
        return found


def _start(spec: LaunchSpec, argv: list[str]) -> str | None:
    """Start the attempt's shim; its words when it could not start the program.

    Not with asyncio's subprocesses: uvloop's inherit whatever another thread has just opened, among it the pipes of
    another launch, which then does not end before this attempt does.
    """
    shim = subprocess.run(
        [sys.executable, "-I", "-S", process_shim.__file__, str(spec.run_dir / FOLDER), *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=spec.run_dir,
        env=process_env(spec, os.environ),
        check=False,
    )
    return None if shim.returncode == 0 else shim.stderr.decode(errors="replace").strip()


def _line_of(pid: int) -> Iterator[int]:
    """The process, its parent, and so on up."""
    while pid > 1:
        yield pid
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return


def _shim(folder: Path) -> int | None:
    """The pid of the attempt's shim while that runs."""
    try:
        record = json.loads((folder / process_shim.STARTED).read_text())
    except FileNotFoundError:
        return None
    alive = (
        record["boot_id"] == process_shim.boot_id() and process_shim.start_ticks(record["pid"]) == record["start_ticks"]
    )
    return int(record["pid"]) if alive else None
