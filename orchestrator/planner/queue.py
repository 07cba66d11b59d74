"""The queue: who stands behind whom."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from uuid import UUID

from orchestrator.domain import Queued, Shape


@dataclass(frozen=True, slots=True)
class Lines:
    """The queue at one moment, one line for each priority and owner, the oldest job first."""

    bands: tuple[tuple[tuple[str, tuple[Queued, ...]], ...], ...] = ()
    """Priorities from the highest -> (owner, its jobs)."""
    shapes: Mapping[Shape, int] = field(default_factory=dict)
    """What the jobs ask for -> how many ask for it."""

    def __len__(self) -> int:
        return sum(len(line) for band in self.bands for _, line in band)


class Queue:
    """The queued jobs, kept in order while they come and go."""

    def __init__(self, jobs: Iterable[Queued] = ()) -> None:
        self._jobs: dict[UUID, Queued] = {}
        self._lines: dict[tuple[int, str], list[Queued]] = {}
        self._shapes: dict[Shape, int] = {}
        self._seen: dict[tuple[int, str], tuple[Queued, ...]] = {}
        self._now: Lines | None = None
        for job in sorted(jobs, key=_age):
            self.put(job)

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[UUID]:
        return iter(self._jobs)

    def __contains__(self, job_id: UUID) -> bool:
        return job_id in self._jobs

    def put(self, job: Queued) -> None:
        """Add a job, or take it as it is now."""
        self.remove(job.id)
        self._jobs[job.id] = job
        line = self._lines.setdefault((-job.priority, job.owner), [])
        if line and _age(line[-1]) > _age(job):
            insort(line, job, key=_age)
        else:
            line.append(job)
        self._shapes[job.shape] = self._shapes.get(job.shape, 0) + 1
        self._changed(job)

    def remove(self, job_id: UUID) -> None:
        """Take a job out, if it is in."""
        job = self._jobs.pop(job_id, None)
        if job is None:
            return
        key = -job.priority, job.owner
        line = self._lines[key]
        del line[bisect_left(line, _age(job), key=_age)]
        if not line:
            del self._lines[key]
        if self._shapes[job.shape] == 1:
            del self._shapes[job.shape]
        else:
            self._shapes[job.shape] -= 1
        self._changed(job)

    def lines(self) -> Lines:
        """The queue as it stands; the same object as before while nothing changed."""
        if self._now is None:
            bands: dict[int, list[tuple[str, tuple[Queued, ...]]]] = {}
            for key in sorted(self._lines):
                line = self._seen.get(key)
                if line is None:
                    line = self._seen[key] = tuple(self._lines[key])
                bands.setdefault(key[0], []).append((key[1], line))
            self._now = Lines(tuple(tuple(band) for band in bands.values()), dict(self._shapes))
        return self._now

    def _changed(self, job: Queued) -> None:
        self._seen.pop((-job.priority, job.owner), None)
        self._now = None


def turns(
    lines: Lines,
    used: Mapping[str, float],
    cost: Callable[[str, Shape], float],
    next_up: Mapping[int, Queued] | None = None,
) -> Iterator[Queued]:
    """Every queued job in the order in which they should start.

    A job's cost, for each unit of its owner's share, counts as its owner's use for all that stand behind it, so that
    owners take turns. The order does not depend on what fits.

    Args:
        used: what each owner used, for each unit of its share.
        cost: what a job of this owner and shape will add to that.
        next_up: priority -> the job that goes first among those of its priority, whatever its owner used.
    """
    used = dict(used)
    for band in lines.bands:
        first = _still_there(band, (next_up or {}).get(band[0][1][0].priority))
        if first is not None:
            yield first
        heads = [(used.get(owner, 0.0), line[0].created_at, owner, 0, line) for owner, line in band]
        heapify(heads)
        while heads:
            at, _, owner, place, line = heads[0]
            job = line[place]
            if job is not first:
                yield job
            at += cost(owner, job.shape)
            place += 1
            if place < len(line):
                heapreplace(heads, (at, line[place].created_at, owner, place, line))
            else:
                heappop(heads)
                used[owner] = at


def _still_there(band: Iterable[tuple[str, tuple[Queued, ...]]], job: Queued | None) -> Queued | None:
    """The job as it is in the queue now, if it is."""
    if job is None:
        return None
    for owner, line in band:
        if owner == job.owner:
            place = bisect_left(line, _age(job), key=_age)
            return line[place] if place < len(line) and line[place].id == job.id else None
    return None


def _age(job: Queued) -> tuple[float, UUID]:
    return job.created_at, job.id
