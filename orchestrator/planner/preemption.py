"""Who is asked to make room for a job of higher priority."""

from collections.abc import Sequence
from itertools import combinations
from typing import Final

from orchestrator.planner.machine import Held, Need
from orchestrator.planner.room import Claim, Room

PAIRS_MOST: Final = 24
"""Candidates up to which every pair is tried; among more, one is added after the other."""


def victims(need: Need, room: Room, kept: Claim, candidates: Sequence[Held]) -> tuple[Held, ...] | None:
    """The fewest candidates that let the job start once they have left; among as few, those of the lowest priority,
    then those that lose least work. None when not even all of them would do.
    """
    ranked = sorted(candidates, key=lambda holder: (holder.priority, holder.lost_s, holder.job_id))
    if not ranked or not _fits(need, room, kept, ranked):
        return None
    for holder in ranked:
        if _fits(need, room, kept, (holder,)):
            return (holder,)
    if len(ranked) <= PAIRS_MOST:
        fitting = [pair for pair in combinations(ranked, 2) if _fits(need, room, kept, pair)]
        if fitting:
            return min(fitting, key=lambda pair: (pair[1].priority, pair[0].lost_s + pair[1].lost_s))
    return _spared(need, room, kept, ranked)


def _spared(need: Need, room: Room, kept: Claim, ranked: Sequence[Held]) -> tuple[Held, ...]:
    """All of them less those that can stay, spared from the last."""
    leaving = list(ranked)
    for holder in reversed(ranked):
        rest = [other for other in leaving if other is not holder]
        if _fits(need, room, kept, rest):
            leaving = rest
    return tuple(leaving)


def _fits(need: Need, room: Room, kept: Claim, leaving: Sequence[Held]) -> bool:
    without = room.copy()
    for holder in leaving:
        without.give_back(holder)
    return without.lacks(need, kept) is None
