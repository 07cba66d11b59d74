"""When what is held will be free: the earliest a job that waits can start."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from math import inf

from orchestrator.planner.machine import Held, Need
from orchestrator.planner.room import SLACK, Room, Slot


class Outlook:
    """The ends of what runs. ``unknown_s`` stands in for those that nobody can tell."""

    def __init__(self, held: Sequence[Held], unknown_s: float) -> None:
        ends = [(_end_s(holder, unknown_s), holder) for holder in held]
        ends.sort(key=lambda end: end[0])
        self._times = [time for time, _ in ends]
        self._cpus = list(accumulate(holder.cpus for _, holder in ends))
        self._memory_mb = list(accumulate(holder.memory_mb for _, holder in ends))
        self._on: dict[str, list[tuple[float, Held]]] = {}
        for time, holder in ends:
            for uuid in holder.gpus:
                self._on.setdefault(uuid, []).append((time, holder))

    def free_in_s(self, slot: Slot) -> float:
        """Seconds until nobody holds any of the GPU."""
        on = self._on.get(slot.gpu.uuid)
        return on[-1][0] if on else 0.0

    def has_mb_in_s(self, slot: Slot, memory_mb: int) -> float:
        """Seconds until the GPU has this much for one more sharer; infinite when it never will."""
        if slot.free_mb >= memory_mb:
            return 0.0
        free_mb = slot.usable_mb - slot.shared_mb
        whole = slot.whole
        for time, holder in self._on.get(slot.gpu.uuid, ()):
            if holder.gpu_memory_mb is None:
                whole -= 1
            else:
                free_mb += holder.gpu_memory_mb
            if whole <= 0 and free_mb >= memory_mb:
                return time
        return inf

    def earliest_s(self, need: Need, room: Room) -> float:
        """Seconds until enough is free for the job, if nobody else takes it; infinite when that is not in sight."""
        gpu_s = 0.0
        if need.gpu_memory_mb is not None and need.gpus:
            gpu_s = min((self.has_mb_in_s(slot, need.gpu_memory_mb) for slot in room.within_reach(need)), default=inf)
        elif need.gpus:
            free = sorted(self.free_in_s(slot) for slot in room.within_reach(need))
            gpu_s = free[need.gpus - 1] if len(free) >= need.gpus else inf
        return max(
            gpu_s,
            self._until(self._cpus, need.cpus - room.cpus - SLACK),
            self._until(self._memory_mb, need.memory_mb - room.memory_mb) if need.memory_mb else 0.0,
        )

    def _until(self, freed: Sequence[float], missing: float) -> float:
        if missing <= 0:
            return 0.0
        place = bisect_left(freed, missing - SLACK)
        return self._times[place] if place < len(freed) else inf


def _end_s(holder: Held, unknown_s: float) -> float:
    if holder.leaving:
        return 0.0
    return unknown_s if holder.eta_s is None else max(holder.eta_s, 0.0)
