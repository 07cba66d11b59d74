"""The decision: what starts, who makes room, and why the others wait."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from orchestrator.domain import Queued
from orchestrator.planner.machine import Held
from orchestrator.planner.queue import Lines, turns
from orchestrator.planner.room import Room
from orchestrator.planner.round import Round, Start
from orchestrator.planner.terms import Terms
from orchestrator.planner.waits import Waits

DEPTH: Final = 32
"""Jobs that wait, from the first, for which what they need is kept."""


@dataclass(frozen=True, slots=True)
class Preemption:
    """A running job that is to make room."""

    victim: UUID
    beneficiary: UUID
    """The job that waits for it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Every queued job either starts or waits."""

    starts: tuple[Start, ...]
    waits: Waits
    preempt: tuple[Preemption, ...] = ()
    next_up: Mapping[int, Queued] = field(default_factory=dict)
    """Priority -> the first job for which what it needs is kept; the next plan is to let it keep that."""


def plan(lines: Lines, held: Sequence[Held], terms: Terms, *, next_up: Mapping[int, Queued] | None = None) -> Plan:
    """Decide for every job of the queue.

    ``next_up`` is that of the plan before. Whose turn it is goes by what owners use, and that drops when their jobs
    end: what was kept for a large job while they ended would go to small ones at the last moment, again and again.
    """
    room = Room(terms.machine, held, terms.policy)
    look = Round(terms, room, held, now=terms.now, depth=DEPTH)
    used = terms.used(held)
    if terms.machine.engine_error is None and terms.machine.disk_error is None:
        look.run(turns(lines, used, terms.cost, next_up), lines.shapes)
    preempt = tuple(
        Preemption(holder.job_id, job_id)
        for job_id, chosen in look.preemptions.items()
        for holder in chosen
        if not holder.leaving
    )
    kept_first = {kept.job.priority: kept.job for kept in reversed(look.reservations)}
    return Plan(tuple(look.starts), Waits(lines, used, look, next_up), preempt, kept_first)
