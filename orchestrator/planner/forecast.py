"""When each job's turn may come: what runs ends when expected, what waits starts in turn, and so on."""

from collections.abc import Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from typing import Final
from uuid import UUID

from orchestrator.domain import Queued
from orchestrator.planner.machine import Held
from orchestrator.planner.round import Round

LOOKED_AT: Final = 200
"""Jobs that are followed one by one; those behind them are told from the pace."""
DEPTH: Final = 4
"""Jobs that wait for which what they need is kept, at each of the moments looked at."""


def forecast(order: Sequence[Queued], look: Round) -> tuple[dict[UUID, float], float | None]:
    """Seconds until each of the first jobs starts, where that is known, and seconds per place for those behind them.

    A job whose end nobody can tell is taken never to end, so all that depends on it stays unknown.
    """
    terms, room, held = look.terms, look.room.copy(), list(look.held)
    ahead = list(order[:LOOKED_AT])
    etas: dict[UUID, float] = {}
    ends = [(0.0 if holder.leaving else max(holder.eta_s or 0.0, 0.0), place, holder) for place, holder in _known(held)]
    heapify(ends)
    resumed = sorted(job.not_before - look.now for job in ahead if job.not_before and job.not_before > look.now)
    serial, last_s = len(held), 0.0
    while ahead and (ends or resumed):
        if resumed and (not ends or resumed[0] < ends[0][0]):
            at = resumed.pop(0)
        else:
            at, _, ended = heappop(ends)
            room.give_back(ended)
            held.remove(ended)
        if ends and ends[0][0] == at:
            continue
        moment = Round(terms, room, held, now=look.now + at, depth=DEPTH, real=False)
        moment.run(ahead, {job.shape for job in ahead})
        for start, holder in zip(moment.starts, moment.held[len(held) :], strict=True):
            etas[start.job.id] = last_s = at
            if holder.eta_s is not None:
                serial += 1
                holder = replace(holder, eta_s=at + holder.eta_s)
                heappush(ends, (holder.eta_s or at, serial, holder))
            held.append(holder)
        if moment.starts:
            ahead = [job for job in ahead if job.id not in etas]
    followed_all = len(order) > LOOKED_AT and not ahead
    return etas, last_s / LOOKED_AT if followed_all and last_s > 0 else None


def _known(held: Sequence[Held]) -> list[tuple[int, Held]]:
    return [(place, holder) for place, holder in enumerate(held) if holder.leaving or holder.eta_s is not None]
