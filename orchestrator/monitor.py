"""The machine under watch: what it looks like now, and over the last day."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.domain import JobStatus
from orchestrator.gpus import GpuReport
from orchestrator.history import STEP_S, History
from orchestrator.host import Host, HostReading
from orchestrator.occupancy import Occupancy, Occupant
from orchestrator.store import Store
from orchestrator.store.census import Census
from worker_image.contract.cachedir import CacheDir, CacheEntry

logger = logging.getLogger(__name__)

FRESH_S: Final = 1.0
"""How old a sight may be that is shown as the present, so that many viewers cost no more than one."""
JOB_COUNTS: Final = frozenset({"jobs_queued", "attempts_running"})
"""Figures that tell of everybody's jobs."""
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Sight:
    """Machine, GPUs and queue at one moment."""

    at: float
    """Seconds since the epoch."""
    host: HostReading
    gpus: GpuReport
    occupants: Mapping[str, tuple[Occupant, ...]]
    """GPU UUID -> processes on it."""
    census: Census
    cached: tuple[CacheEntry, ...] = ()
    """What the activation cache holds."""


class Monitor:
    """Looks when asked, and by itself every ``STEP_S`` seconds for the history."""

    def __init__(
        self,
        *,
        store: Store,
        host: Host,
        probe: Callable[[], GpuReport],
        occupancy: Occupancy,
        gpus_lost: Callable[[frozenset[str]], None],
        cache: CacheDir,
    ) -> None:
        """``gpus_lost`` is told which GPUs no longer answer, as long as any does not."""
        self._gpus_lost = gpus_lost
        self.history = History()
        self._store, self._host, self._probe, self._occupancy = store, host, probe, occupancy
        self._cache = cache
        self._looking = asyncio.Lock()
        self._seen: tuple[float, Sight] | None = None

    async def look(self) -> Sight:
        """The machine as it is, or was ``FRESH_S`` ago at most."""
        async with self._looking:
            if self._seen is not None and time.monotonic() - self._seen[0] < FRESH_S:
                return self._seen[1]
            host, gpus = await asyncio.gather(asyncio.to_thread(self._host.read), asyncio.to_thread(self._probe))
            sight = Sight(
                at=time.time(),
                host=host,
                gpus=gpus,
                occupants=await self._occupancy.look(gpus.gpus, await self._store.live_attempts()),
                census=await self._store.census(),
                cached=tuple(await asyncio.to_thread(self._cache.look)),
            )
            self._seen = time.monotonic(), sight
            return sight

    async def run(self) -> None:
        """Keep the history for ever. A look that fails leaves a gap, and the next one may not."""
        while True:
            try:
                sight = await self.look()
                self.history.add(sight.at, figures(sight))
                if lost := frozenset(gpu.uuid for gpu in sight.gpus.gpus if gpu.lost):
                    self._gpus_lost(lost)
            except Exception:  # the task boundary: whoever watches must not be what breaks
                logger.exception("the machine could not be looked at")
            await asyncio.sleep(STEP_S)


def figures(sight: Sight) -> dict[str, float | None]:
    """What the history keeps of a sight; of a GPU under ``gpu/<uuid>/``."""
    host, counts = sight.host, sight.census.by_status
    found: dict[str, float | None] = {
        "cpu_percent": host.cpu_percent,
        "load_1": host.load[0],
        "memory_used_mb": host.memory_used / _MIB,
        "swap_used_mb": host.swap_used / _MIB,
        "disk_free_mb": host.disk_free / _MIB,
        "jobs_queued": counts[JobStatus.QUEUED],
        "attempts_running": sight.census.running_attempts,
        "orchestrator_cpu_percent": host.own_cpu_percent,
        "orchestrator_memory_mb": host.own_rss / _MIB,
    }
    for gpu in sight.gpus.gpus:
        if not gpu.lost:
            found |= {
                f"gpu/{gpu.uuid}/utilization": gpu.utilization,
                f"gpu/{gpu.uuid}/memory_used_mb": gpu.memory_used_mb,
                f"gpu/{gpu.uuid}/temperature_c": gpu.temperature_c,
                f"gpu/{gpu.uuid}/power_w": gpu.power_w,
            }
    return found
