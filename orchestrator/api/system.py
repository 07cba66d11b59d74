"""The machine, the engine, what lies on disk, and tickets."""

import asyncio
import time

import psutil
from fastapi import APIRouter

from orchestrator.access import Role
from orchestrator.api.auth import TICKET_S, needs, no_such_job
from orchestrator.api.jobs import artifact_view
from orchestrator.api.state import Orchestrator, Who
from orchestrator.gpus import foreign
from orchestrator.inventory import Entry
from orchestrator.views import GpuView, Health, Inventory, ModelView, SystemStatus, TicketRequest, TicketView
from worker_image import __version__

router = APIRouter(tags=["system"])


@router.get("/health")
@needs(Role.READ)
async def health(orchestrator: Orchestrator) -> Health:
    """Whether it lives, and whether it can start jobs. Asks for no key."""
    engine, disk_error = orchestrator.scheduler.engine, orchestrator.scheduler.disk_error
    return Health(
        status="ok" if engine and disk_error is None else "degraded",
        ready=engine is not None,
        version=__version__,
        engine=engine,
        disk_error=disk_error,
    )


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
async def status(orchestrator: Orchestrator) -> SystemStatus:
    """GPUs, CPU, memory, disk, engine and queue, now."""
    report = await asyncio.to_thread(orchestrator.probe)
    leases = await orchestrator.store.leases()
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    disk = await asyncio.to_thread(psutil.disk_usage, str(orchestrator.settings.home))
    return SystemStatus(
        version=__version__,
        executor=orchestrator.scheduler.executor.name,
        engine=orchestrator.scheduler.engine,
        engine_error=orchestrator.scheduler.engine_error,
        gpus=[
            GpuView(
                uuid=gpu.uuid,
                index=gpu.index,
                name=gpu.name,
                memory_total_mb=gpu.memory_total_mb,
                memory_used_mb=gpu.memory_used_mb,
                utilization=gpu.utilization,
                temperature_c=gpu.temperature_c,
                power_w=gpu.power_w,
                leased_by=leases.get(gpu.uuid, []),
                foreign_processes=foreign(gpu, leases),
            )
            for gpu in report.gpus
        ],
        gpu_error=report.error,
        cpus=orchestrator.settings.cpus,
        cpu_percent=psutil.cpu_percent(),
        memory_total_mb=memory.total >> 20,
        memory_used_mb=(memory.total - memory.available) >> 20,
        swap_total_mb=swap.total >> 20,
        swap_used_mb=swap.used >> 20,
        disk_total_mb=disk.total >> 20,
        disk_free_mb=disk.free >> 20,
        disk_error=orchestrator.scheduler.disk_error,
        home=str(orchestrator.settings.home),
        jobs=await orchestrator.store.count_by_status(),
        uptime_s=time.monotonic() - orchestrator.started_at,
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
