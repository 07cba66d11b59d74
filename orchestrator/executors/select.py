"""Which executor runs the jobs, from the settings and what is on this machine."""

import logging
from collections.abc import Mapping

from orchestrator.errors import EngineUnavailable
from orchestrator.executors.base import Executor
from orchestrator.executors.docker import DockerExecutor
from orchestrator.executors.process import ProcessExecutor
from orchestrator.settings import Settings

log = logging.getLogger(__name__)


def all_executors(settings: Settings) -> dict[str, Executor]:
    """Every executor that may have begun an attempt of this home, by name. None of them connects yet."""
    docker = DockerExecutor(
        settings.home,
        worker_image=settings.worker_image,
        host_home=settings.host_home,
        user=settings.container_user,
        shared=(settings.secrets_memory,),
    )
    return {executor.name: executor for executor in (docker, ProcessExecutor(settings.home))}


async def select_executor(settings: Settings, executors: Mapping[str, Executor]) -> Executor:
    """The one that the settings name; with "auto", Docker when an engine answers, else plain processes.

    Named explicitly, Docker is taken even while its engine is down: jobs then wait for it.
    """
    if settings.executor != "auto":
        return executors[settings.executor]
    try:
        engine = await executors["docker"].check()
    except EngineUnavailable as why:
        log.warning("no Docker engine answers, so jobs run as plain processes without isolation (%s)", why.message)
        return executors["process"]
    log.info("jobs run in containers on %s", engine)
    return executors["docker"]
