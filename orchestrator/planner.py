"""Which queued jobs start now, and why each of the others waits. Pure: no clock, no database, no engine.

First in, first out within a priority. A job that must wait reserves what it needs, so a later one may pass it only
with what is left over: nothing can starve it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from orchestrator.domain import Job, Wait
from orchestrator.gpus import Gpu, assign
from worker_image.contract.jobs import JOB_TYPES


@dataclass(frozen=True, slots=True)
class Machine:
    """What jobs may use."""

    cpus: float
    gpus: tuple[Gpu, ...] = ()
    gpu_error: str | None = None
    """Why the GPUs cannot be seen just now; none is handed out until they can."""
    blocked: Mapping[str, int] = field(default_factory=dict)
    """GPU UUID -> processes on it from outside the orchestrator; such a GPU is not handed out."""
    disk_error: str | None = None
    """Why nothing new may be written just now; nothing starts until it may."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a live attempt holds."""

    job_id: UUID
    cpus: float
    gpus: tuple[str, ...] = ()
    eta_s: float | None = None
    """Seconds until it ends, when its worker can tell."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a job asks for on this machine, its empty fields filled in."""

    gpus: int
    cpus: float


@dataclass(frozen=True, slots=True)
class Start:
    """A job to start, and what it gets."""

    job: Job
    gpus: tuple[str, ...]
    cpus: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Every queued job is in exactly one of the two."""

    starts: tuple[Start, ...]
    waits: Mapping[UUID, Wait]


def demand(job: Job, machine: Machine) -> Demand:
    """Fill in what the submitter left open; see ``Resources``."""
    uses_gpu = JOB_TYPES[job.type].uses_gpu
    gpus = job.resources.gpus
    if gpus is None:
        gpus = 1 if uses_gpu and machine.gpus else 0
    cpus = job.resources.cpus
    if cpus is None:
        if not uses_gpu:
            cpus = min(1.0, machine.cpus)
        elif machine.gpus:
            cpus = machine.cpus / len(machine.gpus) * max(gpus, 1)
        else:
            cpus = machine.cpus
    return Demand(gpus, cpus)


def plan(queue: Sequence[Job], held: Sequence[Held], machine: Machine, *, engine_error: str | None = None) -> Plan:
    """Decide for every job of the queue, which is in the order in which jobs should start."""
    taken = {gpu for holder in held for gpu in holder.gpus}
    free_gpus = [gpu for gpu in machine.gpus if gpu.uuid not in taken and gpu.uuid not in machine.blocked]
    free_cpus = machine.cpus - sum(holder.cpus for holder in held)
    reserved_gpus, reserved_cpus = 0, 0.0
    starts: list[Start] = []
    waits: dict[UUID, Wait] = {}
    for job in queue:
        need = demand(job, machine)
        place = len(waits) + 1
        if engine_error is not None:
            waits[job.id] = Wait("engine_unavailable", f"the engine does not answer: {engine_error}", place)
            continue
        if machine.disk_error is not None:
            waits[job.id] = Wait("disk_full", f"the disk is full: {machine.disk_error}", place)
            continue
        if (too_much := _exceeds(need, machine)) is not None:
            waits[job.id] = Wait("exceeds_machine", too_much, place)
            continue
        if need.gpus and machine.gpu_error is not None:
            waits[job.id] = Wait("gpu_unknown", f"the GPUs cannot be seen: {machine.gpu_error}", place)
            continue
        spare_gpus, spare_cpus = max(len(free_gpus) - reserved_gpus, 0), free_cpus - reserved_cpus
        if need.gpus <= spare_gpus and need.cpus <= spare_cpus + 1e-9:
            gpus = assign(free_gpus, need.gpus) or ()
            starts.append(Start(job, gpus, need.cpus))
            free_gpus = [gpu for gpu in free_gpus if gpu.uuid not in gpus]
            free_cpus -= need.cpus
            continue
        waits[job.id] = _wait(need, len(free_gpus), free_cpus, held, machine, place)
        reserved_gpus += need.gpus
        reserved_cpus += need.cpus
    return Plan(tuple(starts), waits)


def _exceeds(need: Demand, machine: Machine) -> str | None:
    if need.gpus > len(machine.gpus):
        return f"asks for {need.gpus} GPU(s); this machine has {len(machine.gpus)}"
    if need.cpus > machine.cpus:
        return f"asks for {need.cpus:g} CPU cores; jobs may use {machine.cpus:g} here"
    return None


def _wait(need: Demand, free_gpus: int, free_cpus: float, held: Sequence[Held], machine: Machine, place: int) -> Wait:
    eta_s = _eta_s(need, free_gpus, free_cpus, held) if place == 1 else None
    if need.gpus > free_gpus:
        outside = f", {len(machine.blocked)} used by processes from outside" if machine.blocked else ""
        detail = f"needs {need.gpus} GPU(s); {free_gpus} of {len(machine.gpus)} free{outside}"
        return Wait("gpu_busy", detail, place, eta_s)
    if need.cpus > free_cpus + 1e-9:
        detail = f"needs {need.cpus:g} CPU cores; {max(free_cpus, 0):g} of {machine.cpus:g} free"
        return Wait("cpu_busy", detail, place, eta_s)
    return Wait("behind_others", "what is free is kept for jobs ahead of it", place, eta_s)


def _eta_s(need: Demand, free_gpus: int, free_cpus: float, held: Sequence[Held]) -> float | None:
    """Seconds until enough running jobs will have ended, if they can tell."""
    known = sorted((holder for holder in held if holder.eta_s is not None), key=lambda holder: holder.eta_s or 0)
    for holder in known:
        free_gpus += len(holder.gpus)
        free_cpus += holder.cpus
        if need.gpus <= free_gpus and need.cpus <= free_cpus + 1e-9:
            return holder.eta_s
    return None
