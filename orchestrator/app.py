"""The composition root: every part is made here and handed to those that need it."""

import asyncio
import fcntl
import gc
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext

import uvicorn
from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline

from orchestrator.access import Role
from orchestrator.api import (
    estimates,
    events,
    failures,
    features,
    jobs,
    keys,
    log_socket,
    logs,
    metrics,
    owners,
    pipelines,
    prometheus,
    secrets,
    sweeps,
    system,
    trainings,
    upkeep,
    webhooks,
)
from orchestrator.api.auth import Gate, api_key, authorise, needs
from orchestrator.api.body_limit import BodyLimit
from orchestrator.api.guard import Guard
from orchestrator.api.observed import REQUEST_ID, Observed
from orchestrator.api.query import known_query
from orchestrator.api.state import State
from orchestrator.api.tokens import Tokens
from orchestrator.broker import Broker
from orchestrator.conductor import Conductor
from orchestrator.control import Control
from orchestrator.courier import Courier
from orchestrator.errors import SettingsError
from orchestrator.event_pages import EventPages
from orchestrator.executors.base import Executor
from orchestrator.executors.select import all_executors, select_executor
from orchestrator.feed import Feeds
from orchestrator.growth import Growth
from orchestrator.host import Host
from orchestrator.instruments import Instruments
from orchestrator.inventory import Inventory
from orchestrator.journal import keep_journal
from orchestrator.keyring import KeyRing
from orchestrator.monitor import Monitor
from orchestrator.nvml import GpuProbe
from orchestrator.quota import can_punch
from orchestrator.rebuild import Rebuilt, rebuild
from orchestrator.revocations import Revocations
from orchestrator.sampler import Sampler
from orchestrator.scheduler import Scheduler
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.upkeep import Upkeep
from orchestrator.vault import Vault
from orchestrator.views import ErrorView
from worker_image import __version__
from worker_image.contract.cachedir import CacheDir

logger = logging.getLogger(__name__)

SHUTDOWN_S = 3


def create_app(settings: Settings, *, executor: Executor | None = None, home_is_held: bool = False) -> FastAPI:
    """The API with everything behind it. ``executor`` replaces the one the settings choose.

    While it runs it holds the home by ``sole_owner``, unless its caller does so already.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        holding = nullcontext() if home_is_held else sole_owner(settings)
        with holding:
            async with _running(settings, executor, instruments) as state:
                app.state.orchestrator = state
                yield

    instruments = Instruments()
    # The plain class would have /docs load its scripts from a content network, and show a blank page without one.
    app = FastAPIOffline(
        redoc_url=None,
        title="saeforge",
        version=__version__,
        summary="Queue, run and watch sparse-autoencoder training jobs in containers.",
        lifespan=lifespan,
        dependencies=[Depends(authorise), Depends(known_query)],
        # One shape for all of them; what each means is in its code.
        responses={
            "4XX": {"model": ErrorView, "description": "The request cannot be done as it is."},
            "5XX": {"model": ErrorView, "description": "The orchestrator, its engine or its disk cannot do it now."},
        },
    )
    for page in app.routes:
        if isinstance(page, APIRoute):
            needs(Role.READ)(page.endpoint)
    app.include_router(jobs.router)
    app.include_router(estimates.router)
    app.include_router(features.router)
    app.include_router(metrics.router)
    app.include_router(owners.router)
    app.include_router(sweeps.router)
    app.include_router(trainings.router)
    app.include_router(pipelines.router)
    app.include_router(logs.router)
    app.include_router(log_socket.router)
    app.include_router(events.router)
    app.include_router(system.router)
    app.include_router(prometheus.router)
    app.include_router(keys.router)
    app.include_router(upkeep.router)
    app.include_router(secrets.router)
    app.include_router(webhooks.router)
    failures.install(app)
    # The last one added is the first to look at a request.
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Guard)
    # Outside the guard: a browser asks beforehand whether it may call, and never with a key.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["Authorization", "X-API-Key", "Idempotency-Key", "Content-Type", REQUEST_ID],
        expose_headers=[REQUEST_ID],
    )
    app.add_middleware(Observed, instruments=instruments)
    return app


def _credentials(settings: Settings) -> tuple[str | None, Tokens | None]:
    """The machine's key, made if need be, and what signs tokens. Raises: SettingsError."""
    return (api_key(settings), Tokens.of(settings)) if settings.auth == "on" else (None, None)


@asynccontextmanager
async def _running(settings: Settings, given: Executor | None, instruments: Instruments) -> AsyncIterator[State]:
    for folder in (settings.home, settings.runs, settings.models, settings.datasets, settings.saes):
        folder.mkdir(parents=True, exist_ok=True)
    key, tokens = _credentials(settings)
    store = await Store.open(settings.database)
    if await store.recovery.is_empty():
        _tell(await rebuild(store, settings.home))
    others = all_executors(settings)
    used = (await store.tallies()).attempts_begun
    executor = given or await select_executor(settings, others, used=used)
    broker, probe, growth = Broker(), GpuProbe(), Growth()
    scheduler = Scheduler(
        store=store,
        executor=executor,
        others=others,
        broker=broker,
        settings=settings,
        probe=probe,
        growth=growth,
        instruments=instruments,
    )
    monitor = Monitor(
        store=store,
        host=Host(settings.home),
        probe=probe,
        occupancy=scheduler.occupancy,
        gpus_lost=scheduler.gpus_lost,
        cache=CacheDir(settings.activation_cache),
    )
    keyring, vault = await KeyRing.open(store, Revocations(settings.revoked_keys)), Vault(settings)
    await asyncio.to_thread(vault.sweep, {attempt.name for attempt in await store.live_attempts()})
    control = Control(store=store, scheduler=scheduler, broker=broker, settings=settings)
    inventory = Inventory(settings)
    conductor = Conductor(store=store, control=control, inventory=inventory, broker=broker, settings=settings)
    state = State(
        settings=settings,
        store=store,
        scheduler=scheduler,
        control=control,
        conductor=conductor,
        inventory=inventory,
        broker=broker,
        gate=Gate(settings, keyring, machine_key=key, tokens=tokens),
        vault=vault,
        monitor=monitor,
        instruments=instruments,
        feeds=Feeds(store=store, broker=broker, growth=growth, home=settings.home),
        event_pages=EventPages(store),
        upkeep=Upkeep(store=store, settings=settings),
        courier=Courier(store=store, broker=broker, settings=settings),
    )
    telling = asyncio.create_task(state.courier.run(), name="courier")
    keeping = asyncio.create_task(state.upkeep.run(), name="upkeep")
    await asyncio.to_thread(_tell_of_log_quota, settings)
    watching = asyncio.create_task(monitor.run(), name="monitor")
    reconciling = asyncio.create_task(scheduler.run(), name="scheduler")
    reconciling.add_done_callback(_die_with_it)
    sampler = Sampler(
        store=store,
        executors={**others, executor.name: executor},
        look=monitor.look,
        sample_s=settings.sample_s,
    )
    sampling = asyncio.create_task(sampler.run(), name="sampler")
    conducting = asyncio.create_task(conductor.run(), name="conductor")
    conducting.add_done_callback(_die_with_it)
    keeping_use = asyncio.create_task(keyring.keep_use(), name="last use of keys")
    removing = asyncio.create_task(control.finish_removals(), name="removal of what was being deleted")
    for task in (telling, keeping, watching, sampling, keeping_use, removing):
        task.add_done_callback(_say_if_it_failed)
    try:
        yield state
    finally:
        broker.close()
        for task in (watching, sampling, keeping, telling, reconciling, conducting, keeping_use, removing):
            task.cancel()
            # Not awaited itself: one that failed would keep the rest from being closed, and the process from ending.
            await asyncio.wait({task})
        await state.feeds.close()
        await growth.close()
        for each in {executor, *others.values()}:
            await each.close()
        await store.close()


def _tell(rebuilt: Rebuilt) -> None:
    """Say what a database without jobs was given from run directories."""
    if rebuilt.jobs:
        logger.warning("the database was empty: took over %d jobs from the run directories", len(rebuilt.jobs))
    for path in rebuilt.unreadable:
        logger.warning("%s is of no known job, and tells none", path)


def _tell_of_log_quota(settings: Settings) -> None:
    """Say at the start when logs will not be kept within their quota here."""
    if not settings.log_quota_mb:
        return
    try:
        able = can_punch(settings.runs)
    except OSError as error:
        logger.warning("whether logs can be kept within SAEFORGE_LOG_QUOTA_MB is not known: %s", error)
        return
    if not able:
        logger.warning(
            "the filesystem of %s cannot free the middle of a file: logs are not kept within SAEFORGE_LOG_QUOTA_MB",
            settings.runs,
        )


def _say_if_it_failed(task: asyncio.Task[None]) -> bool:
    """Whether it did. Jobs go on without any of what is only said of."""
    if task.cancelled() or (error := task.exception()) is None:
        return False
    logger.critical("the %s failed", task.get_name(), exc_info=error)
    return True


def _die_with_it(task: asyncio.Task[None]) -> None:
    """An orchestrator that does half of its work must not look alive: jobs go on, a restart re-attaches to them."""
    if _say_if_it_failed(task):
        os.kill(os.getpid(), 15)


@contextmanager
def sole_owner(settings: Settings) -> Iterator[None]:
    """Hold the home for this process alone, making it if need be. Raises: SettingsError."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        lock = (settings.home / "lock").open("w")
    except OSError as error:
        raise SettingsError(
            f"{settings.home} cannot be used: {error.strerror}",
            field="SAEFORGE_HOME",
            suggestion="change its owner, or set SAEFORGE_HOME to a directory of yours",
        ) from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingsError(
                f"another orchestrator runs on {settings.home}",
                field="SAEFORGE_HOME",
                suggestion="stop it, or set SAEFORGE_HOME to another directory",
            ) from error
        yield


def serve(
    settings: Settings, *, announce_key: Callable[[str], None] = lambda _: None, executor: Executor | None = None
) -> None:
    """Run the API until SIGINT or SIGTERM; jobs go on without it. A key made just now is announced once.

    The caller holds the home (``sole_owner``): a server can no longer refuse in one line once it runs.
    """
    new = settings.auth == "on" and settings.find_api_key() is None
    key, _ = _credentials(settings)
    secrets = [secret for secret in (key, settings.find_jwt_secret()) if secret]
    keep_journal(settings.log_level, settings.log_format, secrets=secrets)
    if new and key is not None:
        announce_key(key)
    config = uvicorn.Config(
        create_app(settings, executor=executor, home_is_held=True),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=list(settings.proxies),
        # Viewers only ever say who they are.
        ws_max_size=65_536,
        # Compressing a log takes longer than sending it, and a third of a megabyte for each viewer.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    _collect_rarely()
    _Server(config, settings.viewer_timeout_s).run()


class _Server(uvicorn.Server):
    """Has the kernel end connections whose other side takes nothing: what waits in them could never be closed."""

    def __init__(self, config: uvicorn.Config, timeout_s: float) -> None:
        super().__init__(config)
        self._timeout_s = timeout_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in (found for server in self.servers for found in server.sockets):
            # Connections inherit it from the socket that accepts them.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._timeout_s * 1000))


def _collect_rarely() -> None:
    """Have Python look for cycles among long-lived objects far less often: each look stops the whole process.

    With ten thousand jobs queued that is a tenth of a second, and every plan over them would bring it on. What was
    imported is not looked at any more at all.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
