"""What running attempts use, looked at every few seconds: cores, memory, GPUs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final
from uuid import UUID

from orchestrator.domain import Attempt
from orchestrator.errors import EngineUnavailable
from orchestrator.executors.base import Executor, Usage
from orchestrator.gpus import Gpu
from orchestrator.monitor import Sight
from orchestrator.store import Sample, Store

logger = logging.getLogger(__name__)

AT_ONCE: Final = 4
"""Attempts looked at together; more would be felt by the engine."""
PATIENCE_S: Final = 10.0
"""How long one look may take."""
_MIB: Final = 1 << 20


class Sampler:
    """Looks at every running attempt. What cannot be seen is left out; nothing that goes wrong here harms a job."""

    def __init__(
        self,
        *,
        store: Store,
        executors: Mapping[str, Executor],
        look: Callable[[], Awaitable[Sight]],
        sample_s: float,
    ) -> None:
        self._store, self._executors, self._look, self._sample_s = store, executors, look, sample_s
        self._before: dict[tuple[UUID, int], Usage] = {}
        self._few = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Look for ever. A round that fails leaves a gap, and the next one may not."""
        while True:
            # First, for at the start there is more urgent work with all that runs.
            await asyncio.sleep(self._sample_s)
            try:
                await self.sample()
            except Exception:  # the task boundary: whoever watches must not be what breaks
                logger.exception("what running jobs use could not be looked at")

    async def sample(self) -> None:
        """One round over all running attempts."""
        live = [item for item in await self._store.live_attempts() if item.handle is not None and item.ended_at is None]
        keys = {(item.job_id, item.number) for item in live}
        self._before = {key: usage for key, usage in self._before.items() if key in keys}
        sight = await self._look() if any(item.gpus for item in live) else None
        await asyncio.gather(*(self._sample(item, sight) for item in live))

    async def _sample(self, attempt: Attempt, sight: Sight | None) -> None:
        async with self._few:
            usage = await self._usage(attempt)
        if usage is None:
            return
        key = attempt.job_id, attempt.number
        values = {"memory_bytes": float(usage.memory_bytes)}
        if (cores := _cores(self._before.get(key), usage)) is not None:
            values["cpu_cores"] = cores
        self._before[key] = usage
        on_gpus: list[int] = []
        if sight is not None:
            for gpu in sight.gpus.gpus:
                if gpu.uuid in attempt.gpus and not gpu.lost:
                    memory_mb = _own_memory_mb(gpu, attempt, sight)
                    values |= dict(_gpu_values(gpu, memory_mb))
                    on_gpus += [] if memory_mb is None else [memory_mb]
        await self._store.measurements.record(
            attempt,
            Sample(round(usage.at * 1000), usage.at, values),
            memory_mb=-(-usage.memory_bytes // _MIB),
            gpu_memory_mb=max(on_gpus, default=None),
        )

    async def _usage(self, attempt: Attempt) -> Usage | None:
        executor = self._executors.get(attempt.executor)
        if executor is None or attempt.handle is None:
            return None
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await executor.usage(attempt.handle)
        except (EngineUnavailable, TimeoutError) as error:
            logger.debug("%s: not seen: %s", attempt.name, error)
            return None


def _cores(before: Usage | None, now: Usage) -> float | None:
    """Cores busy since the look before, on average."""
    if before is None or now.at <= before.at or now.cpu_s < before.cpu_s:
        return None
    return (now.cpu_s - before.cpu_s) / (now.at - before.at)


def _own_memory_mb(gpu: Gpu, attempt: Attempt, sight: Sight) -> int | None:
    """Memory of the GPU that the attempt's processes use; all that is used where it has the GPU to itself and its
    processes cannot be seen, as from within a container."""
    seen = [item.memory_mb for item in sight.occupants.get(gpu.uuid, ()) if item.job_id == attempt.job_id]
    known = [memory_mb for memory_mb in seen if memory_mb is not None]
    if seen and len(known) == len(seen):
        return sum(known)
    return gpu.memory_used_mb if attempt.gpu_memory_mb is None else None


def _gpu_values(gpu: Gpu, own_memory_mb: int | None) -> Iterator[tuple[str, float]]:
    name = f"gpu{gpu.index}" if gpu.instance is None else f"gpu{gpu.index}:{gpu.instance}"
    figures = {
        "memory_bytes": gpu.memory_used_mb * _MIB,
        "job_memory_bytes": None if own_memory_mb is None else own_memory_mb * _MIB,
        "utilization": gpu.utilization,
        "temperature_c": gpu.temperature_c,
        "power_w": gpu.power_w,
    }
    for figure, value in figures.items():
        if value is not None:
            yield f"{name}.{figure}", float(value)
