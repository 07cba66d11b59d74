"""Which executor runs the jobs, from the settings and what is on this machine."""

import logging

from orchestrator.errors import EngineUnavailable
from orchestrator.executors.base import Executor
from orchestrator.executors.docker import DockerExecutor
from orchestrator.executors.process import ProcessExecutor
from orchestrator.settings import Settings

log = logging.getLogger(__name__)


async def select_executor(settings: Settings) -> Executor:
    """The executor that the settings name; with "auto", Docker when an engine answers, else plain processes.

    Named explicitly, Docker is taken even while its engine is down: jobs then wait for it.
    """
    if settings.executor == "process":
        return ProcessExecutor(settings.home)
    docker = DockerExecutor(
        settings.home,
        worker_image=settings.worker_image,
        host_home=settings.host_home,
        user=settings.container_user,
    )
    if settings.executor == "docker":
        return docker
    try:
        engine = await docker.check()
    except EngineUnavailable as why:
        await docker.close()
        log.warning("no Docker engine answers, so jobs run as plain processes without isolation (%s)", why.message)
        return ProcessExecutor(settings.home)
    log.info("jobs run in containers on %s", engine)
    return docker
