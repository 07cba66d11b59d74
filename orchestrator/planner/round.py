"""One look at the queue: every job is offered what is free, in turn."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from uuid import UUID

from orchestrator.domain import Queued, Shape
from orchestrator.planner.machine import Held, Need
from orchestrator.planner.outlook import Outlook
from orchestrator.planner.preemption import victims
from orchestrator.planner.room import NOTHING, SLACK, Claim, Room, Slot
from orchestrator.planner.terms import Terms

REFUSALS_MOST = 500
"""Kinds of jobs behind those for which something is kept that are tried in vain before a look ends."""
PREEMPTERS_MOST = 8
"""Jobs for which others are asked to make room in one look."""


@dataclass(frozen=True, slots=True)
class Start:
    """A job to start, and what it gets."""

    job: Queued
    gpus: tuple[str, ...]
    cpus: float
    gpu_memory_mb: int | None = None
    """Memory of its GPU when it shares it."""
    weight: float = 0.0
    """What a second of it counts as its owner's use, in GPU seconds."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is kept for a job that waits."""

    job: Queued
    claim: Claim
    earliest_s: float
    """When it can start at the earliest. What surely ends by then may use what is kept meanwhile."""


@dataclass(slots=True)
class Ledger:
    """What an owner holds, and what is kept for its waiting jobs, against its limits."""

    running: int = 0
    gpus: float = 0.0
    kept_running: int = 0
    kept_gpus: float = 0.0


class Round:
    """Who starts, what is kept for whom, and who makes room."""

    def __init__(
        self, terms: Terms, room: Room, held: Sequence[Held], *, now: float, depth: int, real: bool = True
    ) -> None:
        """``room`` is what ``held`` leaves, and changes with every start.

        Args:
            now: seconds since the epoch.
            depth: jobs that wait, from the first, for which what they need is kept.
            real: whether jobs may be preempted and passed by such as end in time; a forecast does without.
        """
        self.terms, self.room, self.held, self.now = terms, room, list(held), now
        self.starts: list[Start] = []
        self.reservations: list[Reservation] = []
        self.preemptions: dict[UUID, tuple[Held, ...]] = {}
        """Job that waits -> who makes room for it."""
        self.kept = NOTHING
        self._depth, self._real = depth, real
        self._ledgers: dict[str, Ledger] = {}
        self._running_of = Counter[UUID]()
        """Sweep -> jobs of it that hold anything."""
        for holder in self.held:
            self._enter(holder)
        self._barred: set[Shape] = set()
        """What can never start here."""
        self._unfit: set[Shape] = set()
        """What did not fit; it does not later in the round either, because what is free only becomes less."""
        self._spent: set[str] = set()
        """Owners who may run no further job."""
        self._denied: set[tuple[str, Shape]] = set()
        """What an owner may hold no more of."""
        lowest = min((holder.priority for holder in self.held if holder.resumable), default=inf)
        self._lowest_priority = lowest if real else inf
        self._looks_left = PREEMPTERS_MOST
        self._kept_until: tuple[list[float], list[Claim]] | None = None
        """When jobs that wait can start at the earliest, in order, and what is kept for all up to each."""
        self._outlooks: tuple[Outlook, Outlook] | None = None

    def run(self, jobs: Iterable[Queued], shapes: Iterable[Shape]) -> None:
        """Offer what is free to every job, in this order. ``shapes`` are all that the jobs ask for."""
        hopeful: set[Shape] | None = None
        refused = 0
        for job in jobs:
            if hopeful is None and len(self.reservations) >= self._depth:
                hopeful = self._hopeful(shapes)
            if hopeful is not None:
                if not hopeful or refused >= REFUSALS_MOST:
                    return
                if job.shape not in hopeful:
                    continue
            if job.owner in self._spent or job.shape in self._barred or (job.not_before or 0.0) > self.now:
                continue
            if job.sweep is not None and self.concurrency(job) is not None:
                continue
            if self._denied and (job.owner, job.shape) in self._denied:
                continue
            self._offer(job)
            if hopeful is not None and job.shape in self._unfit:
                hopeful.discard(job.shape)
                refused += 1

    def concurrency(self, job: Queued) -> str | None:
        """What its sweep's limit says against starting the job now. Its own jobs alone free what it waits for."""
        if job.sweep is None or (most := self.terms.sweeps.get(job.sweep)) is None:
            return None
        running = self._running_of[job.sweep]
        return f"its sweep runs {running} of at most {most} job(s) at a time" if running >= most else None

    def quota(self, job: Queued, need: Need, *, with_kept: bool = False) -> str | None:
        """What the owner's limits say against starting the job now; ``with_kept``, after those that wait before it."""
        owner = self.terms.owners.get(job.owner)
        if owner is None:
            return None
        ledger = self._ledgers.get(job.owner) or Ledger()
        running, gpus = ledger.running, ledger.gpus
        if with_kept:
            running, gpus = running + ledger.kept_running, gpus + ledger.kept_gpus
        if owner.max_running is not None and running + 1 > owner.max_running:
            return f"{job.owner} runs {ledger.running} of at most {owner.max_running} job(s) at a time"
        parts = self.terms.parts(need.gpus, need.gpu_memory_mb)
        if owner.max_gpus is not None and parts and gpus + parts > owner.max_gpus + SLACK:
            return f"{job.owner} holds {ledger.gpus:.3g} of at most {owner.max_gpus} GPU(s); this asks for {parts:.3g}"
        return None

    def _hopeful(self, shapes: Iterable[Shape]) -> set[Shape]:
        """What may fit yet. There can be as many shapes as jobs, so most are told by a glance at what is free."""
        room, need_of, ruled_out = self.room, self.terms.need, self._barred | self._unfit
        cpus = room.cpus + SLACK
        whole = sum(slot.free for slot in room.slots.values())
        shared_mb = max((slot.free_mb for slot in room.slots.values()), default=-1)
        if cpus <= SLACK:
            return set()
        return {
            shape
            for shape in shapes
            if (need := need_of(shape)).cpus <= cpus
            and (need.gpus <= whole if need.gpu_memory_mb is None else need.gpu_memory_mb <= shared_mb)
            and shape not in ruled_out
            and room.lacks(need) is None
        }

    def _offer(self, job: Queued) -> None:
        need = self.terms.need(job.shape)
        if need.too_much is not None or (need.gpus and self.terms.machine.gpu_error is not None):
            self._barred.add(job.shape)
            return
        if self.quota(job, need, with_kept=True) is not None:
            self._deny(job, need)
            return
        if job.shape not in self._unfit:
            gpus = self.room.place(need, self._kept_against(need.bound_s) if self._real else self.kept)
            if gpus is not None:
                self._start(job, need, gpus)
                return
            self._unfit.add(job.shape)
        # Nothing is kept for one that waits for processes from outside: nobody can tell for how long.
        if len(self.reservations) < self._depth and len(self.room.within_reach(need)) >= need.gpus:
            self._reserve(job, need)

    def _start(self, job: Queued, need: Need, gpus: tuple[str, ...]) -> None:
        self.starts.append(Start(job, gpus, need.cpus, need.gpu_memory_mb, self.terms.weight(need)))
        holder = Held(
            job.id,
            job.owner,
            need.cpus,
            need.memory_mb,
            gpus,
            need.gpu_memory_mb,
            weight=self.terms.weight(need),
            priority=job.priority,
            eta_s=self.terms.runs_s(job.owner, job.shape),
            sweep=job.sweep,
        )
        self.held.append(holder)
        self.room.take(holder)
        self._enter(holder)
        self._outlooks = None

    def _enter(self, holder: Held) -> None:
        ledger = self._ledgers.setdefault(holder.owner, Ledger())
        ledger.running += 1
        ledger.gpus += self.terms.parts(len(holder.gpus), holder.gpu_memory_mb)
        if holder.sweep is not None:
            self._running_of[holder.sweep] += 1

    def _deny(self, job: Queued, need: Need) -> None:
        """Keep for the owner's job what its limits allow, so that the owner's later ones cannot starve it."""
        owner, ledger = self.terms.owners[job.owner], self._ledgers.setdefault(job.owner, Ledger())
        self._denied.add((job.owner, job.shape))
        if owner.max_running is not None and ledger.running + ledger.kept_running + 1 > owner.max_running:
            self._spent.add(job.owner)
        parts = self.terms.parts(need.gpus, need.gpu_memory_mb)
        # One that asks for more than its owner may ever hold keeps nobody up.
        if owner.max_gpus is None or parts <= owner.max_gpus + SLACK:
            ledger.kept_running += 1
            ledger.kept_gpus += parts

    # --- what is kept for those that wait

    def _kept_against(self, bound_s: float) -> Claim:
        """What a job that surely ends within ``bound_s`` must leave alone."""
        if bound_s == inf:
            return self.kept
        if self._kept_until is None:
            by_time = sorted(self.reservations, key=lambda kept: kept.earliest_s)
            claims = accumulate((kept.claim for kept in by_time), initial=NOTHING)
            self._kept_until = [kept.earliest_s for kept in by_time], list(claims)
        times, claims_until = self._kept_until
        return claims_until[bisect_left(times, bound_s)]

    def _reserve(self, job: Queued, need: Need) -> None:
        """Keep for the job what it will need: of the GPUs those that it can have first."""
        soonest, likely = self._outlook()
        claimed = self._made_room(job, need)
        earliest_s = 0.0
        if claimed is None:
            claimed = self._first_to_be_had(need, likely)
            earliest_s = soonest.earliest_s(need, self.room)
        shares = need.gpu_memory_mb is not None
        claim = Claim(
            need.cpus,
            need.memory_mb,
            frozenset() if shares else frozenset(claimed),
            dict.fromkeys(claimed, need.gpu_memory_mb or 0) if shares else {},
        )
        self.reservations.append(Reservation(job, claim, 0.0 if earliest_s == inf else earliest_s))
        self.kept, self._kept_until = self.kept + claim, None
        ledger = self._ledgers.setdefault(job.owner, Ledger())
        ledger.kept_running += 1
        ledger.kept_gpus += self.terms.parts(need.gpus, need.gpu_memory_mb)

    def _first_to_be_had(self, need: Need, likely: Outlook) -> tuple[str, ...]:
        if not need.gpus:
            return ()
        others = [slot for slot in self.room.within_reach(need) if slot.gpu.uuid not in self.kept.gpus]
        if need.gpu_memory_mb is None:

            def vacant(slot: Slot) -> tuple[bool, float, int, int]:
                return not slot.free, likely.free_in_s(slot), slot.sharers, slot.gpu.index

            whole = sorted((slot for slot in others if slot.gpu.uuid not in self.kept.shared_mb), key=vacant)
            return tuple(slot.gpu.uuid for slot in whole[: need.gpus])
        asked_mb = need.gpu_memory_mb

        def roomy(slot: Slot) -> tuple[float, int, int]:
            wanted_mb = asked_mb + self.kept.shared_mb.get(slot.gpu.uuid, 0)
            return likely.has_mb_in_s(slot, wanted_mb), -slot.free_mb, slot.gpu.index

        return tuple(slot.gpu.uuid for slot in sorted(others, key=roomy)[:1])

    def _made_room(self, job: Queued, need: Need) -> tuple[str, ...] | None:
        """The GPUs it gets once all have left that are about to, or that it has leave; None when that is not enough."""
        leaving = [holder for holder in self.held if holder.leaving]
        leaving += [holder for chosen in self.preemptions.values() for holder in chosen if not holder.leaving]
        if leaving and (gpus := self._once_left(leaving).place(need, self.kept)) is not None:
            making_room = tuple(holder for holder in leaving if holder.making_room)
            if making_room and not self._without(making_room, leaving, need):
                self.preemptions[job.id] = making_room
            return gpus
        if job.priority <= self._lowest_priority or self._looks_left <= 0:
            return None
        self._looks_left -= 1
        gone = {holder.job_id for holder in leaving}
        candidates = [
            holder
            for holder in self.held
            if holder.resumable
            and holder.job_id not in gone
            and holder.priority < job.priority
            and holder.ran_s >= self.terms.policy.preempt_after_s
        ]
        room = self._once_left(leaving)
        chosen = victims(need, room, self.kept, candidates)
        if chosen is None:
            return None
        self.preemptions[job.id] = chosen
        return self._once_left([*leaving, *chosen]).place(need, self.kept)

    def _without(self, making_room: Sequence[Held], leaving: Sequence[Held], need: Need) -> bool:
        """Whether it would fit without those that make room."""
        rest = [holder for holder in leaving if holder not in making_room]
        return self._once_left(rest).lacks(need, self.kept) is None

    def _once_left(self, leaving: Iterable[Held]) -> Room:
        room = self.room.copy()
        for holder in leaving:
            room.give_back(holder)
        return room

    def _outlook(self) -> tuple[Outlook, Outlook]:
        """How soon things can be free at the earliest, and how soon they will be, as far as that is known."""
        if self._outlooks is None:
            self._outlooks = Outlook(self.held, 0.0), Outlook(self.held, inf)
        return self._outlooks
