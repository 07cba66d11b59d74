"""Which queued jobs start now, and why each of the others waits. Pure: no clock, no database, no engine.

Higher priority first; within a priority, the owner who used least for its share; within an owner, first in, first out.
A job that must wait reserves what it needs: a later one passes it only where it cannot delay it, so nothing starves.
"""

from orchestrator.planner.durations import medians
from orchestrator.planner.machine import Held, Machine, Need, Policy, needs
from orchestrator.planner.plan import Plan, Preemption, plan
from orchestrator.planner.queue import Lines, Queue
from orchestrator.planner.round import Start
from orchestrator.planner.terms import Expected, Terms
from orchestrator.planner.waits import Waits

__all__ = [
    "Expected",
    "Held",
    "Lines",
    "Machine",
    "Need",
    "Plan",
    "Policy",
    "Preemption",
    "Queue",
    "Start",
    "Terms",
    "Waits",
    "medians",
    "needs",
    "plan",
]
