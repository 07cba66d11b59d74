"""What the planner is told, put together from the store, the driver and the settings."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

import psutil

from orchestrator.domain import JobStatus, Shape
from orchestrator.gpus import Gpu, GpuReport
from orchestrator.occupancy import Occupancy, Occupant
from orchestrator.planner import Expected, Held, Lines, Machine, Need, Policy, Queue, Terms, medians
from orchestrator.settings import Settings
from orchestrator.store import Holding, Store
from orchestrator.topology import Topology, read_topology
from worker_image.contract.jobs import JOB_TYPES

DURATIONS: Final = 500
"""Completed jobs, from the last, whose durations tell how long others will run."""
DURATIONS_FRESH_S: Final = 30.0
"""How long they are good for."""
NEEDS_SPARE: Final = 1000
"""Needs worked out for jobs long gone that are kept all the same."""
MEMORY_SHARE: Final = 0.9
"""Part of the machine's memory that jobs may use together, unless the settings say otherwise."""
LEAVING: Final = frozenset({JobStatus.PAUSING, JobStatus.STOPPING})


class Board:
    """Keeps the queue in memory and up to date; the rest is looked up for every plan."""

    def __init__(
        self, *, store: Store, settings: Settings, probe: Callable[[], GpuReport], occupancy: Occupancy
    ) -> None:
        self.queue = Queue()
        self._store, self._settings, self._probe, self._occupancy = store, settings, probe, occupancy
        self._after: int | None = None
        self._topology: tuple[frozenset[str], Topology] = (frozenset(), Topology())
        self._expected: Expected = {}
        self._expected_until = 0.0
        self._peak_mb: dict[UUID, int] = {}
        """Live job -> the most GPU memory it was seen to use, in MiB."""
        self._form: tuple[object, ...] = ()
        """The machine as it was when the needs were worked out."""
        self._needs: dict[Shape, Need] = {}
        self._policy = Policy(
            half_life_s=settings.half_life_s,
            preempt_after_s=settings.preempt_after_s,
            gpu_margin_mb=settings.gpu_margin_mb,
            gpu_outside_mb=settings.gpu_outside_mb,
            grace_s=settings.grace_s,
        )
        self._memory_mb = settings.memory_mb or int(psutil.virtual_memory().total * MEMORY_SHARE) >> 20

    async def refresh(self) -> set[UUID]:
        """Take in what happened to the queue since the last time; the jobs that came, changed or went."""
        if self._after is None:
            return await self._read_all()
        found = await self._store.turns.changes(self._after)
        for job in found.jobs:
            self.queue.put(job)
        for job_id in found.gone:
            self.queue.remove(job_id)
        self._after = found.last
        changed = {job.id for job in found.jobs} | set(found.gone)
        return changed if len(self.queue) == found.length else changed | await self._read_all()

    async def _read_all(self) -> set[UUID]:
        found = await self._store.turns.queue()
        before, self.queue, self._after = self.queue, Queue(found.jobs), found.last
        return {job_id for job_id in before if job_id not in self.queue}

    async def look(self, *, engine_error: str | None, disk_error: str | None) -> tuple[Lines, list[Held], Terms]:
        """All that a plan is made from, now."""
        report = await asyncio.to_thread(self._probe)
        holdings = await self._store.turns.holdings()
        now = time.time()
        expected = await self._durations()
        occupants = await self._occupants(report.gpus)
        self._note_use(occupants, holdings)
        machine = Machine(
            cpus=self._settings.cpus,
            memory_mb=self._memory_mb,
            gpus=report.gpus,
            # No driver at all means no GPUs; one that stopped answering means that they cannot be seen just now.
            gpu_error=report.error if report.gpus else None,
            blocked={
                uuid: count for uuid, found in occupants.items() if (count := sum(each.foreign for each in found))
            },
            lost=frozenset(gpu.uuid for gpu in report.gpus if gpu.lost),
            outside_mb={gpu.uuid: _outside_mb(gpu, occupants[gpu.uuid], holdings) for gpu in report.gpus},
            topology=await self._closeness(report.gpus),
            engine_error=engine_error,
            disk_error=disk_error,
        )
        owners = await self._store.owners.all()
        held = [_held(holding, self._peak_mb[holding.job_id], expected, now) for holding in holdings]
        lines = self.queue.lines()
        sweeps = await self._store.sweeps.limits()
        terms = Terms(machine, owners, self._policy, expected, now, sweeps, self._known_needs(machine, lines))
        return lines, held, terms

    def _known_needs(self, machine: Machine, lines: Lines) -> dict[Shape, Need]:
        """What was worked out before, unless the machine has become another one or most of it is of no use any more."""
        form = (machine.cpus, *((gpu.uuid, gpu.index, gpu.name, gpu.memory_total_mb) for gpu in machine.gpus))
        if form != self._form or len(self._needs) > NEEDS_SPARE + 2 * len(lines.shapes):
            self._form, self._needs = form, {}
        return self._needs

    async def _occupants(self, gpus: Sequence[Gpu]) -> Mapping[str, Sequence[Occupant]]:
        return await self._occupancy.look(gpus, await self._store.live_attempts()) if gpus else {}

    def _note_use(self, occupants: Mapping[str, Sequence[Occupant]], holdings: Iterable[Holding]) -> None:
        """Remember the most GPU memory that each job was seen to use: what it needed once, it will need again."""
        seen = Counter[UUID]()
        for found in occupants.values():
            for occupant in found:
                if occupant.job_id is not None:
                    seen[occupant.job_id] += occupant.memory_mb or 0
        # What the store keeps of it is what was seen before this orchestrator began.
        self._peak_mb = {
            holding.job_id: max(self._peak_mb.get(holding.job_id, 0), seen[holding.job_id], holding.peak_gpu_memory_mb)
            for holding in holdings
        }

    async def _closeness(self, gpus: Sequence[Gpu]) -> Topology:
        """How close the GPUs are: asked for once, and again when there are others."""
        names = frozenset(gpu.uuid for gpu in gpus)
        if names != self._topology[0]:
            self._topology = names, await asyncio.to_thread(read_topology, gpus) if len(gpus) > 1 else Topology()
        return self._topology[1]

    async def _durations(self) -> Expected:
        if time.monotonic() >= self._expected_until:
            self._expected = medians(await self._store.turns.durations(DURATIONS))
            self._expected_until = time.monotonic() + DURATIONS_FRESH_S
        return self._expected


def _outside_mb(gpu: Gpu, occupants: Iterable[Occupant], holdings: Iterable[Holding]) -> int:
    """Memory in use that is no job's: of processes from outside, of a desktop, of the driver.

    Where the driver does not show a job's processes, or not how much they use, it is taken to use what it was granted.
    """
    holders = [holding for holding in holdings if gpu.uuid in holding.gpus]
    if any(holding.gpu_memory_mb is None for holding in holders):
        return 0
    used: dict[UUID, list[int | None]] = {}
    for occupant in occupants:
        if occupant.job_id is not None:
            used.setdefault(occupant.job_id, []).append(occupant.memory_mb)
    jobs_mb = 0
    for holding in holders:
        told = used.get(holding.job_id, [None])
        known = [memory_mb for memory_mb in told if memory_mb is not None]
        jobs_mb += sum(known) if len(known) == len(told) else holding.gpu_memory_mb or 0
    return max(gpu.memory_used_mb - jobs_mb, 0)


def _held(holding: Holding, peak_mb: int, expected: Expected, now: float) -> Held:
    ran_s = max(now - holding.since, 0.0)
    return Held(
        job_id=holding.job_id,
        owner=holding.owner,
        cpus=holding.cpus,
        memory_mb=holding.memory_mb,
        gpus=holding.gpus,
        gpu_memory_mb=None if holding.gpu_memory_mb is None else max(holding.gpu_memory_mb, peak_mb),
        weight=holding.weight,
        priority=holding.priority,
        ran_s=ran_s,
        eta_s=_eta_s(holding, expected, ran_s),
        resumable=JOB_TYPES[holding.type].resumable and holding.status == JobStatus.RUNNING,
        lost_s=now - max(holding.since, holding.saved_at or 0.0),
        leaving=holding.ended or holding.status in LEAVING,
        sweep=holding.sweep,
        making_room=holding.status == JobStatus.PAUSING and holding.intent == "requeue",
    )


def _eta_s(holding: Holding, expected: Expected, ran_s: float) -> float | None:
    """Its worker's own word, else how long such jobs run; never more than its time limit leaves it."""
    usual_s = expected.get((holding.type, holding.owner), expected.get((holding.type, "")))
    eta_s = holding.eta_s
    if eta_s is None and usual_s is not None and usual_s > ran_s:
        eta_s = usual_s - ran_s
    limit_s = None if holding.timeout_s is None else max(holding.timeout_s - ran_s, 0.0)
    return min((seconds for seconds in (eta_s, limit_s) if seconds is not None), default=None)
