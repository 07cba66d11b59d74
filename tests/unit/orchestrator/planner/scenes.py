"""Queues, machines and holders to plan with."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from typing import Any
from uuid import UUID

from orchestrator.domain import Owner, Queued, Resources, Shape
from orchestrator.gpus import Gpu
from orchestrator.planner import Held, Machine, Plan, Policy, Queue, Terms, plan

_ids = count(1)


def fresh_id() -> UUID:
    return UUID(int=next(_ids))


def gpu(index: int, total_mb: int = 80_000, used_mb: int = 0, name: str = "NVIDIA H100") -> Gpu:
    return Gpu(uuid=f"GPU-{index}", index=index, name=name, memory_total_mb=total_mb, memory_used_mb=used_mb)


def machine(gpus: int = 0, cpus: float = 4, **changes: Any) -> Machine:
    return replace(Machine(cpus=cpus, gpus=tuple(gpu(index) for index in range(gpus))), **changes)


def asking(
    gpus: int | None = 0,
    cpus: float | None = 1,
    *,
    owner: str = "ada",
    priority: int = 0,
    created_at: float | None = None,
    type: str = "container",
    not_before: float | None = None,
    **resources: Any,
) -> Queued:
    """A queued job that asks for this."""
    job_id = fresh_id()
    shape = Shape(type, Resources(gpus=gpus, cpus=cpus, **resources))
    when = float(job_id.int) if created_at is None else created_at
    return Queued(job_id, owner, priority, when, shape, not_before)


def training(**resources: Any) -> Queued:
    return asking(gpus=None, cpus=None, type="train_sae", **resources)


def holding(cpus: float = 1, gpus: tuple[int, ...] = (), **changes: Any) -> Held:
    """A live attempt that holds this."""
    base = Held(fresh_id(), "ada", cpus, gpus=tuple(f"GPU-{index}" for index in gpus), weight=len(gpus) + 0.02 * cpus)
    return replace(base, **changes)


def decide(jobs: Iterable[Queued], held: Iterable[Held] = (), on: Machine | None = None, **terms: Any) -> Plan:
    """Plan for these jobs."""
    owners = {owner.name: owner for owner in terms.pop("owners", ())}
    return plan(Queue(jobs).lines(), list(held), Terms(on or machine(), owners=owners, **terms))


def started(decided: Plan) -> list[Queued]:
    return [start.job for start in decided.starts]


__all__ = ["Owner", "Policy", "asking", "decide", "gpu", "holding", "machine", "started", "training"]
