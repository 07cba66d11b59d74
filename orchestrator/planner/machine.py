"""What the planner is told: what there is, what is held, and what a job asks of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from uuid import UUID

from orchestrator.domain import Shape
from orchestrator.gpus import Gpu
from orchestrator.topology import Topology
from orchestrator.usage import HALF_LIFE_S
from worker_image.contract.jobs import JOB_TYPES


@dataclass(frozen=True, slots=True)
class Machine:
    """What jobs may use."""

    cpus: float
    memory_mb: float = inf
    """Memory that the limits of running jobs may add up to, in MiB."""
    gpus: tuple[Gpu, ...] = ()
    gpu_error: str | None = None
    """Why the GPUs cannot be seen just now; none is handed out until they can."""
    blocked: Mapping[str, int] = field(default_factory=dict)
    """GPU UUID -> processes on it from outside the orchestrator; such a GPU is not handed out."""
    lost: frozenset[str] = frozenset()
    """UUIDs of GPUs that were there and do not answer any more; they are not handed out."""
    outside_mb: Mapping[str, int] = field(default_factory=dict)
    """GPU UUID -> its memory in MiB that is used, but not by jobs; jobs that share the GPU do not get it."""
    topology: Topology = field(default_factory=Topology)
    engine_error: str | None = None
    """Why containers cannot be started just now; nothing starts until they can."""
    disk_error: str | None = None
    """Why nothing new may be written just now; nothing starts until it may."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that the planner follows."""

    half_life_s: float = HALF_LIFE_S
    """Time after which past use counts half."""
    preempt_after_s: float = 600.0
    """How long a job may run before it can be asked to make room."""
    gpu_margin_mb: int = 512
    """Memory of a shared GPU that is left alone, in MiB."""
    gpu_outside_mb: int = 2048
    """Memory in MiB of a GPU that may be in use, but by no job, for a job to get it whole."""
    grace_s: float = 60.0
    """How long a job may run on after its timeout."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a live attempt holds."""

    job_id: UUID
    owner: str
    cpus: float
    memory_mb: int = 0
    gpus: tuple[str, ...] = ()
    gpu_memory_mb: int | None = None
    """Memory of its GPU it was granted or has been seen to use, whichever is more; its GPUs are its own when empty."""
    weight: float = 0.0
    """What a second of it counts as its owner's use, in GPU seconds."""
    priority: int = 0
    ran_s: float = 0.0
    """Since it began to hold this."""
    eta_s: float | None = None
    """Seconds until it is expected to end, at most what its time limit leaves it; empty when nobody can tell."""
    resumable: bool = False
    """Whether it can be asked to checkpoint and continue later."""
    lost_s: float = 0.0
    """Work in seconds that is lost if it is asked to leave now."""
    leaving: bool = False
    """Whether it was asked to end, so that what it holds is free soon."""
    making_room: bool = False
    """Whether it was asked to by the planner, for a job of higher priority."""
    sweep: UUID | None = None
    """The sweep its job belongs to."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a job asks for on this machine, its empty fields filled in."""

    gpus: int
    cpus: float
    memory_mb: int = 0
    gpu_memory_mb: int | None = None
    """Memory of its one GPU when it shares it; its GPUs are its own when empty."""
    eligible: frozenset[str] | None = None
    """UUIDs of the GPUs it accepts; any when empty."""
    bound_s: float = inf
    """Longest it can hold this."""
    too_much: str | None = None
    """Why it can never start here."""


def needs(shape: Shape, machine: Machine, policy: Policy) -> Need:
    """Fill in what the submitter left open; see ``Resources``."""
    asked, uses_gpu = shape.resources, JOB_TYPES[shape.type].uses_gpu
    picky = bool(asked.gpu_ids or asked.gpu_model)
    gpus = asked.gpus
    if gpus is None:
        wants_gpu = uses_gpu or picky or asked.gpu_memory_mb is not None
        gpus = 1 if wants_gpu and (machine.gpus or not uses_gpu) else 0
    cpus = asked.cpus
    if cpus is None:
        if not uses_gpu:
            cpus = min(1.0, machine.cpus)
        elif machine.gpus:
            cpus = machine.cpus / len(machine.gpus) * max(gpus, 1)
        else:
            cpus = machine.cpus
    eligible = frozenset(gpu.uuid for gpu in machine.gpus if _accepts(shape, gpu)) if picky else None
    need = Need(
        gpus=gpus,
        cpus=cpus,
        memory_mb=asked.memory_mb or 0,
        gpu_memory_mb=asked.gpu_memory_mb if gpus else None,
        eligible=eligible,
        bound_s=inf if asked.timeout_s is None else asked.timeout_s + policy.grace_s,
    )
    too_much = _too_much(need, machine, policy)
    if too_much is None:
        return need
    return Need(need.gpus, need.cpus, need.memory_mb, need.gpu_memory_mb, eligible, need.bound_s, too_much)


def _accepts(shape: Shape, gpu: Gpu) -> bool:
    asked = shape.resources
    if asked.gpu_ids and gpu.uuid not in asked.gpu_ids and str(gpu.index) not in asked.gpu_ids:
        return False
    return asked.gpu_model is None or asked.gpu_model.casefold() in gpu.name.casefold()


def _too_much(need: Need, machine: Machine, policy: Policy) -> str | None:
    accepted = [gpu for gpu in machine.gpus if need.eligible is None or gpu.uuid in need.eligible]
    if need.gpus > len(accepted):
        which = "" if need.eligible is None else " of those it accepts"
        return f"asks for {need.gpus} GPU(s); this machine has {len(accepted)}{which}"
    if need.gpu_memory_mb is not None:
        most = max(gpu.memory_total_mb for gpu in accepted) - policy.gpu_margin_mb
        if need.gpu_memory_mb > most:
            return f"asks for {need.gpu_memory_mb} MiB of a GPU; jobs that share one may use {most} MiB here"
    if need.cpus > machine.cpus:
        return f"asks for {need.cpus:g} CPU cores; jobs may use {machine.cpus:g} here"
    if need.memory_mb > machine.memory_mb:
        return f"asks for {need.memory_mb} MiB of memory; jobs may use {machine.memory_mb:g} MiB here"
    return None
