"""Whose processes are on the GPUs: of which job, or from outside."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from orchestrator.domain import Attempt
from orchestrator.errors import EngineUnavailable
from orchestrator.executors.base import Executor
from orchestrator.gpus import Gpu

OUTSIDE_S: Final = 10.0
"""How long a process that belongs to no attempt is taken for an outsider without asking again."""


@dataclass(frozen=True, slots=True)
class Occupant:
    """A process on a GPU."""

    pid: int
    name: str
    memory_mb: int | None
    job_id: UUID | None
    """The job it belongs to; empty when it is from outside."""
    foreign: bool
    """Whether it has no business here: from outside, or of a job that does not hold this GPU."""


class Occupancy:
    """Tells occupants apart, asking each executor about a process once."""

    def __init__(self, executors: Mapping[str, Executor]) -> None:
        self._executors = executors
        self._ours: dict[int, str] = {}
        """Process -> handle of the attempt it belongs to, while it is seen on a GPU."""
        self._outside: dict[int, float] = {}
        """Process -> when it was found to belong to no attempt."""

    async def look(self, gpus: Sequence[Gpu], live: Iterable[Attempt]) -> dict[str, tuple[Occupant, ...]]:
        """GPU UUID -> who is on it. ``live``: every attempt whose processes may still be there.

        While an attempt that holds a GPU cannot be asked for, because its engine does not answer or it is only being
        launched, what cannot be told apart on that GPU counts as its own.
        """
        holders = [attempt for attempt in live if attempt.gpus]
        unsure = {gpu for attempt in holders if attempt.handle is None for gpu in attempt.gpus}
        unsure |= await self._ask({process.pid for gpu in gpus for process in gpu.processes}, holders)
        attempts = {attempt.handle: attempt for attempt in holders if attempt.handle is not None}
        found: dict[str, tuple[Occupant, ...]] = {}
        for gpu in gpus:
            occupants: list[Occupant] = []
            for process in gpu.processes:
                attempt = attempts.get(self._ours.get(process.pid, ""))
                foreign = gpu.uuid not in unsure if attempt is None else gpu.uuid not in attempt.gpus
                job_id = attempt.job_id if attempt else None
                occupants.append(Occupant(process.pid, process.name, process.memory_mb, job_id, foreign))
            found[gpu.uuid] = tuple(occupants)
        return found

    async def _ask(self, pids: set[int], holders: Sequence[Attempt]) -> set[str]:
        """Find out about processes not known yet; return the GPUs of attempts that could not be asked for."""
        now = time.monotonic()
        handles = {attempt.handle for attempt in holders}
        self._ours = {pid: handle for pid, handle in self._ours.items() if pid in pids and handle in handles}
        self._outside = {pid: since for pid, since in self._outside.items() if pid in pids and now - since < OUTSIDE_S}
        unknown = pids - self._ours.keys() - self._outside.keys()
        if not unknown:
            return set()
        silent = set[str]()
        for name in {attempt.executor for attempt in holders}:
            theirs = [attempt for attempt in holders if attempt.executor == name and attempt.handle is not None]
            executor = self._executors.get(name)
            try:
                if executor is None:
                    raise EngineUnavailable(f"there is no executor {name!r}")
                self._ours |= await executor.whose(unknown, [str(attempt.handle) for attempt in theirs])
            except EngineUnavailable:
                silent |= {gpu for attempt in theirs for gpu in attempt.gpus}
        if not silent:
            self._outside |= dict.fromkeys(unknown - self._ours.keys(), now)
        return silent
