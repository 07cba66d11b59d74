"""Why each queued job has not started: a reason, its place, and when its turn may come.

All of it is worked out when somebody asks, and then once: a plan with a hundred thousand jobs that wait costs nothing
for those that nobody looks at.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from math import inf
from typing import Final
from uuid import UUID

from orchestrator.domain import Queued, Shape, Wait, WaitReason
from orchestrator.planner.forecast import forecast
from orchestrator.planner.machine import Machine, Need
from orchestrator.planner.queue import Lines, turns
from orchestrator.planner.room import Slot
from orchestrator.planner.round import Round

_STUCK: Final = frozenset[WaitReason]({"exceeds_machine", "gpu_unknown", "engine_unavailable", "disk_full"})
"""What no passing of time is known to end."""


class Waits(Mapping[UUID, Wait]):
    """Job -> why it waits. Safe to ask from any thread."""

    def __init__(
        self,
        lines: Lines | None = None,
        used: Mapping[str, float] | None = None,
        look: Round | None = None,
        next_up: Mapping[int, Queued] | None = None,
    ) -> None:
        """``look`` is over; ``used`` is what the owners had used before it. Nothing waits where there was none."""
        self._lines, self._used, self._look, self._next_up = lines or Lines(), used or {}, look, next_up
        self._started = frozenset(start.job.id for start in look.starts) if look else frozenset[UUID]()

    @property
    def made_at(self) -> float:
        """Seconds since the epoch of the plan; before all time where there was none."""
        return self._look.now if self._look is not None else -inf

    def __len__(self) -> int:
        return len(self._lines) - len(self._started)

    def __iter__(self) -> Iterator[UUID]:
        return (job.id for job in self.jobs())

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._places

    def __getitem__(self, job_id: UUID) -> Wait:
        place = self._places[job_id]
        job = self._order[place - 1]
        reason, detail = self._reason(job)
        eta_s = None if reason in _STUCK else self._eta_s(job, place)
        return Wait(reason, detail, place, eta_s)

    def jobs(self) -> Iterator[Queued]:
        """Those that wait, in the order of their turns."""
        if self._look is None:
            return iter(())
        order = turns(self._lines, self._used, self._look.terms.cost, self._next_up)
        return (job for job in order if job.id not in self._started) if self._started else order

    def first(self, most: int) -> list[Queued]:
        """Those whose turn is next."""
        return list(islice(self.jobs(), most))

    @cached_property
    def by_reason(self) -> Mapping[str, int]:
        """Reason -> jobs that wait for it."""
        return self.count(lambda _: True)

    def count(self, within: Callable[[Queued], bool]) -> Mapping[str, int]:
        """Reason -> jobs that wait for it, of those that are meant."""
        counts, of_kind = Counter[str](), dict[tuple[str, Shape, UUID | None], str]()
        for job in filter(within, self.jobs()):
            kind = job.owner, job.shape, job.sweep
            # Of one owner and sweep, what asks alike waits alike, but for what has a reason of its own.
            if job.not_before is None and job.id not in self._singled_out:
                if (reason := of_kind.get(kind)) is None:
                    reason = of_kind[kind] = self._reason(job)[0]
            else:
                reason = self._reason(job)[0]
            counts[reason] += 1
        return counts

    @property
    def _singled_out(self) -> Collection[UUID]:
        return self._look.preemptions if self._look is not None else ()

    @cached_property
    def _order(self) -> list[Queued]:
        return list(self.jobs())

    @cached_property
    def _places(self) -> dict[UUID, int]:
        return {job.id: place for place, job in enumerate(self._order, 1)}

    @cached_property
    def _etas(self) -> tuple[dict[UUID, float], float | None]:
        assert self._look is not None
        return forecast(self._order, self._look)

    def _eta_s(self, job: Queued, place: int) -> float | None:
        assert self._look is not None
        known, pace_s = self._etas
        eta_s = known.get(job.id)
        if eta_s is None and pace_s is not None:
            eta_s = pace_s * place
        if eta_s is not None and job.not_before is not None:
            return max(eta_s, job.not_before - self._look.now)
        return eta_s

    def _reason(self, job: Queued) -> tuple[WaitReason, str]:
        look = self._look
        assert look is not None
        machine, need = look.terms.machine, look.terms.need(job.shape)
        if machine.engine_error is not None:
            return "engine_unavailable", f"the engine does not answer: {machine.engine_error}"
        if machine.disk_error is not None:
            return "disk_full", f"the disk is full: {machine.disk_error}"
        if need.gpus and machine.gpu_error is not None:
            return "gpu_unknown", f"the GPUs cannot be seen: {machine.gpu_error}"
        if need.too_much is not None:
            return "exceeds_machine", need.too_much
        if job.not_before is not None and job.not_before > look.now:
            return "backoff", f"its last attempt failed; the next may start in {job.not_before - look.now:.0f} s"
        if (limit := look.concurrency(job)) is not None:
            return "concurrency", limit
        if (limit := look.quota(job, need)) is not None:
            return "quota", limit
        if chosen := look.preemptions.get(job.id):
            names = ", ".join(str(holder.job_id) for holder in chosen)
            return "preempting", f"makes room for it with a checkpoint: {names}"
        return self._shortage(need, look)

    def _shortage(self, need: Need, look: Round) -> tuple[WaitReason, str]:
        room, machine = look.room, look.terms.machine
        lack = room.lacks(need)
        if lack == "gpu_busy":
            return lack, _gpus(need, look)
        if lack == "gpu_memory_busy":
            most = max((slot.free_mb for slot in room.accepted(need)), default=0)
            free = f"at most {max(most, 0)} MiB are free on one{_outside(room.accepted(need), machine)}"
            return lack, f"needs {need.gpu_memory_mb} MiB of a GPU that may be shared; {free}"
        if lack == "cpu_busy":
            return lack, f"needs {need.cpus:g} CPU cores; {max(room.cpus, 0):g} of {machine.cpus:g} free"
        if lack == "memory_busy":
            free = f"{max(room.memory_mb, 0):g} of {machine.memory_mb:g} MiB"
            return lack, f"needs {need.memory_mb} MiB of memory; {free} are not promised to running jobs"
        return "behind_others", "what is free is kept for jobs ahead of it"


def _gpus(need: Need, look: Round) -> str:
    accepted = list(look.room.accepted(need))
    free = sum(slot.free for slot in accepted)
    which = "" if need.eligible is None else " it accepts"
    return f"needs {need.gpus} GPU(s); {free} of {len(accepted)}{which} free{_outside(accepted, look.terms.machine)}"


def _outside(accepted: Iterable[Slot], machine: Machine) -> str:
    """What of these no job has any part in."""
    slots = list(accepted)
    blocked = [slot.gpu.uuid for slot in slots if slot.blocked]
    lost = sum(uuid in machine.lost for uuid in blocked)
    used = f", {len(blocked) - lost} used by processes from outside" if len(blocked) > lost else ""
    crowded = [machine.outside_mb[slot.gpu.uuid] for slot in slots if slot.crowded and not slot.blocked]
    if crowded:
        used += f", {len(crowded)} with up to {max(crowded)} MiB of memory used from outside"
    return used + (f", {lost} not answering" if lost else "")
