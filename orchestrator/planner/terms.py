"""What stays as it is while the queue is looked at: the machine, the owners, and what each kind of job asks for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from orchestrator.domain import Owner, Shape
from orchestrator.planner.machine import Held, Machine, Need, Policy, needs
from orchestrator.usage import EXPECTED_S, accrued, decayed, weight

Expected = Mapping[tuple[str, str], float]
"""(job type, owner) -> how long such jobs ran, in seconds; the owner is empty for all jobs of the type."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms on which jobs take turns."""

    machine: Machine
    owners: Mapping[str, Owner] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    expected: Expected = field(default_factory=dict)
    now: float = 0.0
    """Seconds since the epoch."""
    sweeps: Mapping[UUID, int] = field(default_factory=dict)
    """Sweep -> most of its jobs that may run at once, of those that limit it."""
    known_needs: dict[Shape, Need] = field(default_factory=dict)
    """What shapes need, as far as it was worked out for this machine and policy; more is added."""
    _costs: dict[tuple[str, Shape], float] = field(default_factory=dict)

    def need(self, shape: Shape) -> Need:
        found = self.known_needs.get(shape)
        if found is None:
            found = self.known_needs[shape] = needs(shape, self.machine, self.policy)
        return found

    def runs_s(self, owner: str, shape: Shape) -> float | None:
        """How long such a job of this owner will run, as far as that is known."""
        known = self.expected.get((shape.type, owner), self.expected.get((shape.type, "")))
        limit_s = shape.resources.timeout_s
        return min((value for value in (known, limit_s) if value is not None), default=None)

    def share(self, owner: str) -> float:
        found = self.owners.get(owner)
        return found.share if found is not None else 1.0

    def parts(self, gpus: int, gpu_memory_mb: int | None) -> float:
        """How many GPUs are held: of one that is shared, the part of its memory."""
        if gpu_memory_mb is None:
            return float(gpus)
        smallest = min((gpu.memory_total_mb for gpu in self.machine.gpus), default=gpu_memory_mb)
        return min(gpu_memory_mb / max(smallest, 1), 1.0)

    def weight(self, need: Need) -> float:
        """What a second of it counts, in GPU seconds."""
        return weight(need.cpus, self.parts(need.gpus, need.gpu_memory_mb))

    def cost(self, owner: str, shape: Shape) -> float:
        """What such a job will add to its owner's use, for each unit of the owner's share."""
        found = self._costs.get((owner, shape))
        if found is None:
            need, runs_s = self.need(shape), self.runs_s(owner, shape)
            found = self.weight(need) * (EXPECTED_S if runs_s is None else runs_s) / self.share(owner)
            self._costs[owner, shape] = found
        return found

    def used(self, held: Iterable[Held]) -> dict[str, float]:
        """Owner -> past use, and use to come of what runs, for each unit of its share. Who has least goes first."""
        half_life_s = self.policy.half_life_s
        used = {
            name: decayed(owner.usage, self.now - owner.usage_at, half_life_s)
            for name, owner in self.owners.items()
            if owner.usage
        }
        for holder in held:
            to_come_s = EXPECTED_S if holder.eta_s is None else max(holder.eta_s, 0.0)
            use = accrued(holder.weight, holder.ran_s, half_life_s) + holder.weight * to_come_s
            used[holder.owner] = used.get(holder.owner, 0.0) + use
        return {name: use / self.share(name) for name, use in used.items()}
