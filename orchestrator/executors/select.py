"""Which executor runs the jobs, from the settings and what is on this machine."""

import asyncio
import logging
from collections.abc import Collection, Mapping

from orchestrator.errors import EngineUnavailable
from orchestrator.executors.base import Executor
from orchestrator.executors.docker import DockerExecutor
from orchestrator.executors.engine import engine_is_installed
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
        pull_timeout_s=settings.pull_timeout_s,
    )
    return {executor.name: executor for executor in (docker, ProcessExecutor(settings.home))}


async def select_executor(
    settings: Settings, executors: Mapping[str, Executor], *, used: Collection[str] = ()
) -> Executor:
    """The one that the settings name; with "auto", Docker where it is at home, else plain processes.

    Docker is at home where an engine answers, where attempts of this home have run on it (``used``: the executors they
    ran on), and where its socket is there for this user. While it is down jobs wait for it, instead of running without
    isolation because the orchestrator came up first.
    """
    if settings.executor != "auto":
        return executors[settings.executor]
    try:
        engine = await executors["docker"].check()
    except EngineUnavailable as why:
        if "docker" in used or await asyncio.to_thread(engine_is_installed):
            log.warning("%s; jobs wait for it (SAEFORGE_EXECUTOR=process runs them without isolation)", why.message)
            return executors["docker"]
        log.warning("no Docker engine answers, so jobs run as plain processes without isolation (%s)", why.message)
        return executors["process"]
    log.info("jobs run in containers on %s", engine)
    return executors["docker"]
