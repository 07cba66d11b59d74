"""The machine, the engine, what lies on disk, and tickets."""

import asyncio
import time
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from orchestrator.access import Role
from orchestrator.api.auth import TICKET_S, needs, no_such_job
from orchestrator.api.jobs import artifact_view
from orchestrator.api.state import Orchestrator, State, Who
from orchestrator.gpus import Gpu
from orchestrator.history import STEP_S
from orchestrator.inventory import Entry
from orchestrator.monitor import JOB_COUNTS, Sight
from orchestrator.store.census import Census
from orchestrator.views import (
    ActivationCacheView,
    EngineView,
    GpuProcessView,
    GpuView,
    Health,
    HistoryView,
    Inventory,
    Liveness,
    ModelView,
    OrchestratorView,
    QueueView,
    Readiness,
    SystemStatus,
    TicketRequest,
    TicketView,
    TraceView,
)
from worker_image import __version__

router = APIRouter(tags=["system"])

_MIB = 1 << 20


@router.get("/health")
@needs(Role.READ)
async def health(orchestrator: Orchestrator) -> Health:
    """Whether it lives, and whether it can take and start jobs. Asks for no key."""
    parts = await _parts(orchestrator)
    return Health(
        status="ok" if all(parts.values()) else "degraded",
        ready=_ready(parts),
        version=__version__,
        engine=orchestrator.scheduler.engine,
        disk_error=orchestrator.scheduler.disk_error,
        parts=parts,
    )


@router.get("/health/live")
@needs(Role.READ)
async def live() -> Liveness:
    """Answers while the process does. Asks for no key."""
    return Liveness()


@router.get("/health/ready", responses={503: {"model": Readiness, "description": "Not ready."}})
@needs(Role.READ)
async def ready(orchestrator: Orchestrator, response: Response) -> Readiness:
    """Whether it does its work; 503 when not, with the parts that are not well. Asks for no key."""
    parts = await _parts(orchestrator)
    response.status_code = 200 if _ready(parts) else 503
    return Readiness(ready=_ready(parts), parts=parts)


def _ready(parts: dict[str, bool]) -> bool:
    """A disk that is nearly full halts new attempts; jobs are taken all the same and wait."""
    return all(well for part, well in parts.items() if part != "disk")


async def _parts(orchestrator: State) -> dict[str, bool]:
    """What taking and starting jobs needs -> whether it is well."""
    scheduler = orchestrator.scheduler
    return {
        "database": await orchestrator.store.answers(),
        "scheduler": scheduler.alive,
        "engine": scheduler.engine is not None,
        "disk": scheduler.disk_error is None,
    }


@router.post("/api/tickets")
@needs(Role.READ)
async def ticket(orchestrator: Orchestrator, who: Who, request: TicketRequest) -> TicketView:
    """A single-use ticket with which a browser opens one WebSocket."""
    if request.job_id is not None:
        job = await orchestrator.store.job(request.job_id)
        if not who.covers(job.owner, job.type):
            raise no_such_job(job.id)
    return TicketView(ticket=orchestrator.gate.issue(who, request.job_id), expires_in_s=TICKET_S)


@router.get("/api/system/status")
@needs(Role.READ)
async def status(orchestrator: Orchestrator, who: Who) -> SystemStatus:
    """GPUs, CPU, memory, disk, engine and queue, now. Jobs beyond the key's reach are only counted, as what holds a
    GPU."""
    sight = await orchestrator.monitor.look()
    leases = await orchestrator.store.leases()
    host, scheduler = sight.host, orchestrator.scheduler
    waiting = await scheduler.waiting_by_reason(who)
    census = await orchestrator.store.census(who) if who.scoped else sight.census
    held = await orchestrator.store.turns.holdings() if who.scoped else []
    seen = {holding.job_id for holding in held if who.covers(holding.owner, holding.type)} if who.scoped else None
    return SystemStatus(
        version=__version__,
        executor=scheduler.executor.name,
        engine=scheduler.engine,
        engine_error=scheduler.engine_error,
        engine_health=EngineView(
            name=scheduler.executor.name,
            answer=scheduler.engine,
            error=scheduler.engine_error,
            latency_s=scheduler.engine_latency_s,
            facts=scheduler.engine_facts,
        ),
        gpus=[
            GpuView(
                uuid=gpu.uuid,
                index=gpu.index,
                instance=gpu.instance,
                name=gpu.name,
                memory_total_mb=gpu.memory_total_mb,
                memory_used_mb=gpu.memory_used_mb,
                utilization=gpu.utilization,
                temperature_c=gpu.temperature_c,
                power_w=gpu.power_w,
                power_limit_w=gpu.power_limit_w,
                throttling=list(gpu.throttling),
                uncorrected_errors=gpu.uncorrected_errors,
                last_xid=gpu.last_xid,
                problems=list(gpu.problems),
                lost=gpu.lost,
                leased_by=(holders := _within(leases.get(gpu.uuid, []), seen)),
                leased_by_others=len(leases.get(gpu.uuid, [])) - len(holders),
                processes=_processes(gpu, sight, seen),
                foreign_processes=sum(each.foreign for each in sight.occupants[gpu.uuid]),
            )
            for gpu in sight.gpus.gpus
        ],
        gpu_driver=sight.gpus.driver,
        gpu_error=sight.gpus.error or "; ".join(sight.gpus.unread) or None,
        cpus=orchestrator.settings.cpus,
        cpu_percent=host.cpu_percent,
        core_percent=list(host.core_percent),
        load_average=list(host.load),
        memory_total_mb=host.memory_total // _MIB,
        memory_used_mb=host.memory_used // _MIB,
        swap_total_mb=host.swap_total // _MIB,
        swap_used_mb=host.swap_used // _MIB,
        disk_total_mb=host.disk_total // _MIB,
        disk_free_mb=host.disk_free // _MIB,
        disk_error=scheduler.disk_error,
        inodes_total=host.inodes_total,
        inodes_free=host.inodes_free,
        home=None if who.scoped else str(orchestrator.settings.home),
        jobs=dict(census.by_status),
        queue=queue_view(census, waiting, sight.at),
        orchestrator=OrchestratorView(
            uptime_s=_uptime_s(orchestrator),
            memory_mb=host.own_rss / _MIB,
            cpu_percent=host.own_cpu_percent,
            open_files=host.own_files,
        ),
        uptime_s=_uptime_s(orchestrator),
        activation_cache=ActivationCacheView(
            entries=len(sight.cached),
            size_bytes=sum(entry.size_bytes for entry in sight.cached),
            limit_bytes=orchestrator.settings.activation_cache_mb * _MIB,
        ),
    )


def queue_view(census: Census, waiting: Mapping[str, int], at: float) -> QueueView:
    """The queue in figures; ``waiting`` counts jobs by what they wait for, ``at`` is in seconds since the epoch."""
    oldest = census.oldest_queued_at
    return QueueView(
        by_reason=dict(waiting),
        oldest_age_s=None if oldest is None else max(0.0, at - oldest),
        running_attempts=census.running_attempts,
        begun_last_hour=census.begun_last_hour,
        ended_last_hour=census.ended_last_hour,
    )


def _uptime_s(orchestrator: State) -> float:
    return time.monotonic() - orchestrator.started_at


def _within(jobs: Sequence[UUID], seen: Set[UUID] | None) -> list[UUID]:
    """Those that may be seen; all where ``seen`` is None."""
    return [job_id for job_id in jobs if seen is None or job_id in seen]


def _processes(gpu: Gpu, sight: Sight, seen: Set[UUID] | None) -> list[GpuProcessView]:
    """Those of jobs that may be seen; all, whosever they are, where ``seen`` is None."""
    occupants = sight.occupants[gpu.uuid]
    return [GpuProcessView.model_validate(each) for each in occupants if seen is None or each.job_id in seen]


@router.get("/api/system/history")
@needs(Role.READ)
async def history(
    orchestrator: Orchestrator,
    who: Who,
    since_s: Annotated[float, Query(gt=0, le=86_400, description="How far back, in seconds.")] = 3600.0,
    max_points: Annotated[int, Query(ge=4, le=10_000, description="Most points a figure; extremes are kept.")] = 300,
) -> HistoryView:
    """The machine over the last day, in samples of ten seconds kept in memory: a restart begins it anew.

    A key that is limited to some jobs is not told how many of all there were.
    """
    now = time.time()
    traces = await asyncio.to_thread(orchestrator.monitor.history.traces, now - since_s, max_points)
    return HistoryView(
        until=datetime.fromtimestamp(now, UTC),
        step_s=STEP_S,
        traces={
            name: TraceView.model_validate(trace)
            for name, trace in sorted(traces.items())
            if not (who.scoped and name in JOB_COUNTS)
        },
    )


@router.get("/api/system/models")
@needs(Role.READ)
async def models(orchestrator: Orchestrator, who: Who) -> Inventory:
    """Models and datasets a job can name, and the SAEs that jobs have trained."""
    found = await asyncio.to_thread(orchestrator.inventory.models)
    datasets = await asyncio.to_thread(orchestrator.inventory.datasets)
    return Inventory(
        models=[entry_view(item) for item in found],
        datasets=[entry_view(item) for item in datasets],
        saes=[artifact_view(item) for item in await orchestrator.store.saes(who)],
    )


def entry_view(entry: Entry) -> ModelView:
    return ModelView(
        name=entry.name,
        path=str(entry.path),
        size_bytes=entry.size_bytes,
        modified_at=entry.modified_at,
        detail=entry.detail,
    )
