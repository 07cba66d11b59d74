"""What is free on the machine, and who gets what of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final, Literal

from orchestrator.gpus import Gpu
from orchestrator.planner.machine import Held, Machine, Need, Policy

Lack = Literal["gpu_busy", "gpu_memory_busy", "cpu_busy", "memory_busy"]
"""What there is too little of."""

SLACK: Final = 1e-9
"""Rounding errors of sums of cores."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What is kept for jobs that wait: not to be had by others."""

    cpus: float = 0.0
    memory_mb: float = 0.0
    gpus: frozenset[str] = frozenset()
    """GPUs kept whole, held ones included: nothing new may settle on them."""
    shared_mb: Mapping[str, int] = field(default_factory=dict)
    """GPU UUID -> its memory kept for jobs that share it."""

    def __add__(self, other: "Claim") -> "Claim":
        shared = dict(self.shared_mb)
        for uuid, memory_mb in other.shared_mb.items():
            shared[uuid] = shared.get(uuid, 0) + memory_mb
        return Claim(self.cpus + other.cpus, self.memory_mb + other.memory_mb, self.gpus | other.gpus, shared)


NOTHING: Final = Claim()


@dataclass(slots=True)
class Slot:
    """One GPU, and how much of it is held."""

    gpu: Gpu
    usable_mb: int
    """Memory that jobs may share, before any does."""
    blocked: bool = False
    """Whether processes from outside use it, or it does not answer."""
    crowded: bool = False
    """Whether so much of its memory is used from outside that no job gets all of it."""
    whole: int = 0
    """Holders to whom it belongs; more than one only if the leases were wrong."""
    sharers: int = 0
    shared_mb: int = 0

    @property
    def free(self) -> bool:
        """Whether nobody holds any of it."""
        return not (self.whole or self.sharers or self.blocked or self.crowded)

    @property
    def free_mb(self) -> int:
        """Memory that another sharer could have."""
        return -1 if self.whole or self.blocked else self.usable_mb - self.shared_mb


class Room:
    """The machine less what is held."""

    def __init__(self, machine: Machine, held: Iterable[Held], policy: Policy) -> None:
        self.machine = machine
        self.cpus, self.memory_mb = machine.cpus, machine.memory_mb
        self.slots = {
            gpu.uuid: Slot(
                gpu,
                gpu.memory_total_mb - policy.gpu_margin_mb - machine.outside_mb.get(gpu.uuid, 0),
                blocked=gpu.uuid in machine.blocked or gpu.uuid in machine.lost,
                crowded=machine.outside_mb.get(gpu.uuid, 0) > policy.gpu_outside_mb,
            )
            for gpu in machine.gpus
        }
        for holder in held:
            self.take(holder)

    def copy(self) -> "Room":
        other = Room.__new__(Room)
        other.machine, other.cpus, other.memory_mb = self.machine, self.cpus, self.memory_mb
        other.slots = {
            uuid: Slot(slot.gpu, slot.usable_mb, slot.blocked, slot.crowded, slot.whole, slot.sharers, slot.shared_mb)
            for uuid, slot in self.slots.items()
        }
        return other

    def take(self, holder: Held, sign: int = 1) -> None:
        """Count what somebody holds as held."""
        self.cpus -= sign * holder.cpus
        self.memory_mb -= sign * holder.memory_mb
        for uuid in holder.gpus:
            slot = self.slots.get(uuid)
            # A GPU may have vanished under its holder.
            if slot is None:
                continue
            if holder.gpu_memory_mb is None:
                slot.whole += sign
            else:
                slot.sharers += sign
                slot.shared_mb += sign * holder.gpu_memory_mb

    def give_back(self, holder: Held) -> None:
        """Count what somebody held as free."""
        self.take(holder, -1)

    def accepted(self, need: Need) -> Iterable[Slot]:
        """The GPUs that suit the job, held or not."""
        if need.eligible is None:
            return self.slots.values()
        return (slot for uuid, slot in self.slots.items() if uuid in need.eligible)

    def within_reach(self, need: Need) -> list[Slot]:
        """The GPUs that suit the job and that it can have once jobs have left them."""
        found = [slot for slot in self.accepted(need) if not slot.blocked]
        if need.gpu_memory_mb is None:
            return [slot for slot in found if not slot.crowded]
        return [slot for slot in found if slot.usable_mb >= need.gpu_memory_mb]

    def lacks(self, need: Need, kept: Claim = NOTHING) -> Lack | None:
        """The first thing there is too little of beside what is ``kept``, or None when the job fits."""
        if need.gpus and need.gpu_memory_mb is None:
            found = sum(1 for slot in self.accepted(need) if self._is_free(slot, kept))
            if found < need.gpus:
                return "gpu_busy"
        elif need.gpus and self._best_shared(need, kept) is None:
            return "gpu_memory_busy"
        if need.cpus > self.cpus - kept.cpus + SLACK:
            return "cpu_busy"
        if need.memory_mb and need.memory_mb > self.memory_mb - kept.memory_mb:
            return "memory_busy"
        return None

    def place(self, need: Need, kept: Claim = NOTHING) -> tuple[str, ...] | None:
        """The GPUs to give, none for a job without; or None when it does not fit beside what is ``kept``."""
        if self.lacks(need, kept) is not None:
            return None
        if not need.gpus:
            return ()
        if need.gpu_memory_mb is not None:
            best = self._best_shared(need, kept)
            return None if best is None else (best.gpu.uuid,)
        free = [slot.gpu for slot in self.accepted(need) if self._is_free(slot, kept)]
        return self.machine.topology.assign(free, need.gpus)

    def _is_free(self, slot: Slot, kept: Claim) -> bool:
        return slot.free and slot.gpu.uuid not in kept.gpus and slot.gpu.uuid not in kept.shared_mb

    def _best_shared(self, need: Need, kept: Claim) -> Slot | None:
        """Where least is left over, and before any that nobody holds: whole GPUs stay whole as long as they can."""
        assert need.gpu_memory_mb is not None
        best, best_rank = None, (2, inf, 0)
        for slot in self.accepted(need):
            left_mb = slot.free_mb - kept.shared_mb.get(slot.gpu.uuid, 0) - need.gpu_memory_mb
            if left_mb < 0 or slot.gpu.uuid in kept.gpus:
                continue
            rank = (0 if slot.sharers else 1, left_mb, slot.gpu.index)
            if rank < best_rank:
                best, best_rank = slot, rank
        return best
