"""The orchestrator in a process of its own, over containers, or over processes in their place and two pretended GPUs.

Forked from a process that has imported everything, so that killing and starting it a hundred times takes no minute.
"""

import logging
import os
from dataclasses import replace
from pathlib import Path

import uvicorn

from orchestrator import app, faults
from orchestrator.executors.base import Executor, LaunchSpec
from orchestrator.executors.docker import DockerExecutor
from orchestrator.executors.process import ProcessExecutor
from orchestrator.gpus import Gpu, GpuReport
from orchestrator.settings import Settings
from tests.chaos import worker

GPUS = tuple(Gpu(f"GPU-{index}", index, "NVIDIA Pretended", 80_000, 0) for index in range(2))
WORKER = Path(worker.__file__).read_text()


class ScriptedProcesses(ProcessExecutor):
    """Runs any job as a process, whatever its image: training jobs as the scripted worker."""

    async def launch(self, spec: LaunchSpec) -> str:
        argv = ("python", "-I", "-S", worker.__file__, str(spec.run_dir)) if spec.builtin else spec.argv
        return await super().launch(replace(spec, argv=argv, builtin=True))


class ScriptedContainers(DockerExecutor):
    """Runs training jobs as the scripted worker, which any image with Python can."""

    async def launch(self, spec: LaunchSpec) -> str:
        if spec.builtin:
            spec = replace(spec, argv=("python3", "-I", "-S", "-c", WORKER, str(spec.run_dir)))
        return await super().launch(spec)


def scripted_executor(settings: Settings) -> Executor:
    """The executor that the settings name, with the scripted worker in the place of the real one."""
    if settings.executor == "docker":
        return ScriptedContainers(settings.home, worker_image=settings.worker_image)
    return ScriptedProcesses(settings.home)


class PretendedGpus:
    """A probe that sees two GPUs. Without any there would be no leases that could leak."""

    def __call__(self) -> GpuReport:
        return GpuReport(GPUS)


def serve(settings: Settings, fault: str, log: Path, environment: dict[str, str]) -> None:
    """Be an orchestrator that dies at ``fault``."""
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    # An engine would be asked for them.
    if settings.executor == "process":
        app.GpuProbe = PretendedGpus  # type: ignore[misc, assignment]
    faults.arm(fault)
    config = uvicorn.Config(
        app.create_app(settings, executor=scripted_executor(settings)),
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run()
