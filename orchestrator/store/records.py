"""What the store takes and gives beside the domain's own nouns."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.domain import EndReason, JobFailure, JobStatus, Queued
from orchestrator.event_names import name_of


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; empty fields match all."""

    status: tuple[str, ...] = ()
    type: str | None = None
    owner: str | None = None
    tag: str | None = None
    sweep: UUID | None = None
    model: str | None = None
    dataset: str | None = None
    q: str | None = None
    """Part of a name or the beginning of an id."""
    within_owner: str | None = None
    """The only owner that may be shown, whoever is asked for."""
    within_types: tuple[str, ...] = ()
    """The only types that may be shown; all when empty."""
    archived: bool | None = False
    """Those that are archived, those that are not, or both when empty."""

    def where(self) -> tuple[str, dict[str, str]]:
        """A clause made of fixed texts, and the values bound to it."""
        clauses, values = ["1"], dict[str, str]()
        if self.status:
            names = [f"status{place}" for place in range(len(self.status))]
            clauses.append(f"status IN ({', '.join(':' + name for name in names)})")
            values |= dict(zip(names, self.status, strict=True))
        for column, value in (
            ("type", self.type),
            ("owner", self.owner),
            ("model", self.model),
            ("dataset", self.dataset),
            ("sweep", str(self.sweep) if self.sweep else None),
        ):
            if value is not None:
                clauses.append(f"{column} = :{column}")
                values[column] = value
        if self.within_owner is not None:
            clauses.append("owner = :within_owner")
            values["within_owner"] = self.within_owner
        if self.within_types:
            names = [f"within_type{place}" for place in range(len(self.within_types))]
            clauses.append(f"type IN ({', '.join(':' + name for name in names)})")
            values |= dict(zip(names, self.within_types, strict=True))
        if self.archived is not None:
            clauses.append(f"archived_at IS {'NOT ' if self.archived else ''}NULL")
        if self.tag is not None:
            clauses.append("id IN (SELECT job_id FROM job_tags WHERE tag = :tag)")
            values["tag"] = self.tag
        if self.q is not None:
            clauses.append(r"(name LIKE :part ESCAPE '\' OR id LIKE :start ESCAPE '\')")
            literal = self.q.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
            values |= {"part": f"%{literal}%", "start": f"{literal}%"}
        return " AND ".join(clauses), values


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its place among all events; attempt and seq are empty for the orchestrator's own."""

    id: int
    job_id: UUID
    attempt: int | None
    seq: int | None
    ts: datetime
    type: str
    data: dict[str, Any]

    @property
    def name(self) -> str | None:
        """Its public name, if it has one."""
        return name_of(self.type, self.data)


@dataclass(frozen=True, slots=True)
class StoredCommand:
    """A command as requested, and what became of it."""

    id: UUID
    type: str
    attempt: int
    requested_at: datetime
    status: str
    settled_at: datetime | None
    detail: str
    body: str
    """The line of ``commands.jsonl``."""
    step: int | None = None
    """Steps done when it took effect."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended."""

    reason: EndReason
    status: JobStatus
    exit_code: int | None = None
    failure: JobFailure | None = None
    resume_from: str | None = None
    """Checkpoint a later attempt continues from."""
    note: str | None = None
    """What to say of it in the job's history; the failure's message or the reason when empty."""
    retries: int | None = None
    """Retries in a row that the job has had with the coming one; as before when empty."""
    not_before: datetime | None = None
    """When the next attempt may start at the earliest."""


@dataclass(frozen=True, slots=True)
class QueueChanges:
    """What happened to the queue."""

    jobs: Sequence[Queued]
    """Those that came, or that are not as they were."""
    gone: Sequence[UUID]
    length: int
    """How many are in the queue. One that was cancelled and purged since the last look has left no event behind."""
    last: int
    """Id of the newest event this takes in; the next look goes on from there."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What a live attempt holds, and for whom."""

    job_id: UUID
    owner: str
    sweep: UUID | None
    priority: int
    type: str
    status: str
    intent: str
    cpus: float
    memory_mb: int
    gpus: tuple[str, ...]
    gpu_memory_mb: int | None
    """Memory of its GPU in MiB when it shares it; its GPUs are its own when empty."""
    peak_gpu_memory_mb: int
    """The most GPU memory that it was seen to use, in MiB."""
    weight: float
    """What one second of it counts as use, in GPU seconds."""
    since: float
    """Seconds since the epoch when it began to hold this."""
    saved_at: float | None
    """Seconds since the epoch of its newest checkpoint."""
    ended: bool
    """Whether it has ended and only its container is still to be removed."""
    timeout_s: float | None
    eta_s: float | None
    """Seconds until it is done, in its worker's newest words."""
