"""Metrics for Prometheus."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from fastapi import APIRouter, Request, Response
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from orchestrator.access import Role
from orchestrator.api.auth import needs
from orchestrator.api.state import Orchestrator, State
from orchestrator.exposition import Scraped, families
from worker_image import __version__
from worker_image.contract.rundir import RunDir

router = APIRouter(tags=["system"])


class _Collected(Collector):
    """What was read for one scrape beside what is counted all the time, as a registry gives it."""

    def __init__(self, *sources: Iterable[Metric]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        for family in chain.from_iterable(self._sources):
            # When a series began: in the text format each would make a metric of its own, which nobody asks for.
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


@router.get("/metrics", response_class=Response)
@needs(Role.READ, whole=True)
async def metrics(orchestrator: Orchestrator, request: Request) -> Response:
    """Metrics in Prometheus' text format, or in OpenMetrics where that is asked for; docs/monitoring.md lists them."""
    scraped = await _scrape(orchestrator)
    collected = _Collected(orchestrator.instruments.registry.collect(), families(scraped))
    # Not the library's own choice, which fails on versions that are none.
    if "application/openmetrics-text" in request.headers.get("accept", ""):
        body = openmetrics.generate_latest(collected)  # type: ignore[no-untyped-call]
        return Response(body, media_type=openmetrics.CONTENT_TYPE_LATEST)
    return Response(generate_latest(collected), media_type=CONTENT_TYPE_PLAIN_0_0_4)


async def _scrape(orchestrator: State) -> Scraped:
    scheduler, store = orchestrator.scheduler, orchestrator.store
    live = [attempt for attempt in await store.live_attempts() if attempt.ended_at is None]
    home = orchestrator.settings.home
    logs = [RunDir.of(home, attempt.job_id, attempt.number).log for attempt in live]
    return Scraped(
        version=__version__,
        executor=scheduler.executor.name,
        sight=await orchestrator.monitor.look(),
        tallies=await store.tallies(),
        waiting=await scheduler.waiting_by_reason(),
        leases={gpu: len(jobs) for gpu, jobs in (await store.leases()).items()},
        engine_up=scheduler.engine is not None,
        engine_latency_s=scheduler.engine_latency_s,
        disk_halted=scheduler.disk_error is not None,
        live_log_bytes=await asyncio.to_thread(_sizes, logs),
        started_at=time.time() - (time.monotonic() - orchestrator.started_at),
    )


def _sizes(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.lstat().st_size
        except OSError:
            continue
    return total
