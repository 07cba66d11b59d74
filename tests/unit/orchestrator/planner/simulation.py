"""A machine on which jobs come, run and end while the planner decides; every decision is checked by plain counting."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from uuid import UUID

from orchestrator.domain import Owner, Queued
from orchestrator.planner import Held, Machine, Plan, Policy, Queue, Terms, needs, plan
from orchestrator.usage import accrued, decayed

LACKING = {"gpu_busy", "gpu_memory_busy", "cpu_busy", "memory_busy", "preempting"}
CHECKPOINT_S = 2.0


@dataclass(frozen=True, slots=True)
class Work:
    """A job that comes, and how long it really takes."""

    at: float
    job: Queued
    runs_s: float
    guess: float | None = 1.0
    """What its worker says of its end, as a multiple of the truth; nothing when empty."""


@dataclass
class Simulation:
    """Runs until all work is done or nothing can happen any more."""

    machine: Machine
    owners: Sequence[Owner] = ()
    policy: Policy = field(default_factory=Policy)
    checks: bool = True
    """Whether every decision is checked, which takes far longer than to make it."""
    now: float = 0.0
    queue: Queue = field(default_factory=Queue)
    started: dict[UUID, float] = field(default_factory=dict)
    """When each job first started."""
    preempted: Counter[UUID] = field(default_factory=Counter)
    _left_s: dict[UUID, float] = field(default_factory=dict)
    _work: dict[UUID, Work] = field(default_factory=dict)
    _live: dict[UUID, tuple[Held, float]] = field(default_factory=dict)
    """Job -> what it holds and since when."""
    _next_up: Mapping[int, Queued] = field(default_factory=dict)
    _leaves_at: dict[UUID, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._owners = {owner.name: owner for owner in self.owners}

    def run(self, works: Sequence[Work], *, until: float = float("inf")) -> None:
        coming = deque(sorted(works, key=lambda work: work.at))
        while self.now <= until:
            while coming and coming[0].at <= self.now:
                work = coming.popleft()
                self._work[work.job.id], self._left_s[work.job.id] = work, work.runs_s
                self.queue.put(work.job)
            self._end()
            self._decide()
            moments = [*self._ends().values(), *(work.at for work in islice(coming, 1))]
            if not moments:
                return
            self.now = max(min(moments), self.now)

    def _ends(self) -> dict[UUID, float]:
        done = {job_id: since + self._left_s[job_id] for job_id, (_, since) in self._live.items()}
        return {job_id: min(end, self._leaves_at.get(job_id, end)) for job_id, end in done.items()}

    def _end(self) -> None:
        for job_id, end in self._ends().items():
            if end > self.now:
                continue
            holder, since = self._live.pop(job_id)
            self._left_s[job_id] -= self.now - since
            self._charge(holder, self.now - since)
            if self._leaves_at.pop(job_id, None) is not None and self._left_s[job_id] > 1e-6:
                self.queue.put(self._work[job_id].job)

    def _charge(self, holder: Held, ran_s: float) -> None:
        owner = self._owners.get(holder.owner) or Owner(holder.owner)
        used = decayed(owner.usage, self.now - owner.usage_at, self.policy.half_life_s)
        used += accrued(holder.weight, ran_s, self.policy.half_life_s)
        self._owners[owner.name] = replace(owner, usage=used, usage_at=self.now)

    def held(self) -> list[Held]:
        return [self._held(holder, since) for holder, since in self._live.values()]

    def _held(self, holder: Held, since: float) -> Held:
        work, ran_s = self._work[holder.job_id], self.now - since
        limit_s = work.job.shape.resources.timeout_s
        guessed_s = None if work.guess is None else (self._left_s[holder.job_id] - ran_s) * work.guess
        known = [
            seconds for seconds in (guessed_s, None if limit_s is None else limit_s - ran_s) if seconds is not None
        ]
        eta_s = max(min(known), 0.0) if known else None
        leaving = holder.job_id in self._leaves_at
        return replace(holder, ran_s=ran_s, lost_s=ran_s, eta_s=eta_s, leaving=leaving, making_room=leaving)

    def reason(self, job: Queued) -> str:
        """Why it waits now."""
        terms = Terms(self.machine, self._owners, self.policy, now=self.now)
        return plan(self.queue.lines(), self.held(), terms, next_up=self._next_up).waits[job.id].reason

    def _decide(self) -> None:
        terms = Terms(self.machine, self._owners, self.policy, now=self.now)
        lines, held = self.queue.lines(), self.held()
        decided = plan(lines, held, terms, next_up=self._next_up)
        if self.checks:
            again = plan(lines, held, replace(terms, known_needs={}, _costs={}), next_up=self._next_up)
            assert (decided.starts, decided.preempt) == (again.starts, again.preempt)
            self._check(decided, held)
        self._next_up = decided.next_up
        for start in decided.starts:
            self.queue.remove(start.job.id)
            self.started.setdefault(start.job.id, self.now)
            need = needs(start.job.shape, self.machine, self.policy)
            holder = Held(
                start.job.id,
                start.job.owner,
                need.cpus,
                need.memory_mb,
                start.gpus,
                need.gpu_memory_mb,
                weight=start.weight,
                priority=start.job.priority,
                resumable=start.job.shape.type == "train_sae",
            )
            self._live[start.job.id] = holder, self.now
        for item in decided.preempt:
            assert item.victim not in self._leaves_at
            self._leaves_at[item.victim] = self.now + CHECKPOINT_S
            self.preempted[item.victim] += 1

    def _check(self, decided: Plan, held: Sequence[Held]) -> None:
        self._check_everything_is_decided(decided)
        self._check_nothing_is_overbooked(decided, held)
        self._check_limits(decided, held)
        self._check_preemption(decided, held)

    def _check_everything_is_decided(self, decided: Plan) -> None:
        jobs = [job for band in self.queue.lines().bands for _, line in band for job in line]
        starts = {start.job.id for start in decided.starts}
        waiting = {job.id for job in jobs} - starts
        assert len(starts) == len(decided.starts)
        assert set(decided.waits) == waiting
        told = [decided.waits[job_id] for job_id in waiting]
        assert sorted(wait.position for wait in told) == list(range(1, len(waiting) + 1))
        # Work conserving: only what another one waits for is left unused.
        if any(wait.reason == "behind_others" for wait in told):
            assert min((wait.position for wait in told if wait.reason in LACKING), default=len(told) + 1) <= min(
                wait.position for wait in told if wait.reason == "behind_others"
            ) or any(wait.reason == "quota" for wait in told)
        assert all(wait.eta_s is None or wait.eta_s >= 0 for wait in told)

    def _check_nothing_is_overbooked(self, decided: Plan, held: Sequence[Held]) -> None:
        whole, shared = Counter[str](), Counter[str]()
        cpus = sum(holder.cpus for holder in held)
        memory_mb = sum(holder.memory_mb for holder in held)
        grants = [(holder.gpus, holder.gpu_memory_mb) for holder in held]
        for start in decided.starts:
            need = needs(start.job.shape, self.machine, self.policy)
            cpus, memory_mb = cpus + start.cpus, memory_mb + need.memory_mb
            grants.append((start.gpus, start.gpu_memory_mb))
            assert len(set(start.gpus)) == len(start.gpus) == need.gpus
            assert not set(start.gpus) & set(self.machine.blocked)
            assert need.eligible is None or set(start.gpus) <= need.eligible
        for uuids, granted_mb in grants:
            for uuid in uuids:
                if granted_mb is None:
                    whole[uuid] += 1
                else:
                    shared[uuid] += granted_mb
        assert cpus <= self.machine.cpus + 1e-6
        assert memory_mb <= self.machine.memory_mb
        assert all(times == 1 for times in whole.values())
        assert not whole.keys() & shared.keys()
        for gpu in self.machine.gpus:
            assert shared[gpu.uuid] <= max(gpu.memory_total_mb - self.policy.gpu_margin_mb, 0)

    def _check_limits(self, decided: Plan, held: Sequence[Held]) -> None:
        for owner in self.owners:
            holds = [holder for holder in held if holder.owner == owner.name]
            gets = [start for start in decided.starts if start.job.owner == owner.name]
            if owner.max_running is not None:
                assert len(holds) + len(gets) <= max(owner.max_running, len(holds))
            if owner.max_gpus is not None and gets:
                whole = sum(len(holder.gpus) for holder in holds if holder.gpu_memory_mb is None)
                whole += sum(len(start.gpus) for start in gets if start.gpu_memory_mb is None)
                assert whole <= max(owner.max_gpus, sum(len(holder.gpus) for holder in holds))

    def _check_preemption(self, decided: Plan, held: Sequence[Held]) -> None:
        holders = {holder.job_id: holder for holder in held}
        waiting = {job.id: job for job in decided.waits.jobs()}
        assert len({item.victim for item in decided.preempt}) == len(decided.preempt)
        for item in decided.preempt:
            victim = holders[item.victim]
            assert victim.resumable
            assert victim.priority < waiting[item.beneficiary].priority
            assert victim.ran_s >= self.policy.preempt_after_s
            assert decided.waits[item.beneficiary].reason == "preempting"
