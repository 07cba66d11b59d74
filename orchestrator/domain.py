"""The nouns: Job, Attempt, Resources, and the one table of what may follow what."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from worker_image.contract.events import Failure
from worker_image.contract.jobs import ContainerParams, TrainSaeParams

Params = TrainSaeParams | ContainerParams


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    """Waiting for its turn, with a reason that says why."""
    STARTING = "starting"
    """An attempt holds its leases and is being launched."""
    RUNNING = "running"
    """Its container runs."""
    PAUSING = "pausing"
    """Asked to write a checkpoint and exit, to be continued later."""
    PAUSED = "paused"
    """Nothing runs, no GPU is held; resume continues from the last checkpoint."""
    STOPPING = "stopping"
    """Asked to end: with a final checkpoint (stop) or at once (cancel)."""
    COMPLETED = "completed"
    """Finished by itself."""
    STOPPED = "stopped"
    """Ended on request after a final checkpoint; restart continues it as a new job."""
    FAILED = "failed"
    """Ended by an error, with a reason and advice."""
    CANCELLED = "cancelled"
    """Killed on request."""


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.STARTING, JobStatus.PAUSED, JobStatus.STOPPED, JobStatus.CANCELLED}),
    JobStatus.STARTING: frozenset(
        {
            JobStatus.RUNNING,
            JobStatus.PAUSING,
            JobStatus.PAUSED,
            JobStatus.STOPPING,
            JobStatus.COMPLETED,
            JobStatus.STOPPED,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
        }
    ),
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.PAUSING,
            JobStatus.PAUSED,
            JobStatus.STOPPING,
            JobStatus.COMPLETED,
            JobStatus.STOPPED,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
        }
    ),
    JobStatus.PAUSING: frozenset(
        {
            JobStatus.PAUSED,
            JobStatus.STOPPING,
            JobStatus.COMPLETED,
            JobStatus.STOPPED,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
        }
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.STOPPED, JobStatus.CANCELLED}),
    JobStatus.STOPPING: frozenset(
        {JobStatus.COMPLETED, JobStatus.STOPPED, JobStatus.FAILED, JobStatus.CANCELLED},
    ),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.STOPPED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}
"""Status -> the statuses that may follow it. Nothing follows a terminal one."""

TERMINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)
ACTIVE = frozenset({JobStatus.STARTING, JobStatus.RUNNING, JobStatus.PAUSING, JobStatus.STOPPING})
"""Statuses in which an attempt exists and may hold leases."""

Intent = Literal["run", "pause", "stop", "cancel"]
"""What the user wants of a job; its status says what is."""


class Resources(BaseModel):
    """What one attempt asks for."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    gpus: int | None = Field(default=None, ge=0, le=64)
    """Whole GPUs; when empty, one if the job type uses GPUs and the machine has any, else none."""
    cpus: float | None = Field(default=None, gt=0, le=1024)
    """CPU cores; when empty, one for plain containers and, for types that use GPUs, an even share per GPU (all cores
    on a machine without GPUs)."""
    memory_mb: int | None = Field(default=None, ge=64, le=16_777_216)
    """Memory limit in MiB; exceeding it ends the attempt. Not limited when empty."""
    shm_mb: int = Field(default=256, ge=1, le=1_048_576)
    """Shared memory (/dev/shm) in MiB."""
    pids: int = Field(default=4096, ge=16, le=4_194_304)
    """Most processes and threads."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Longest run of one attempt in seconds; not limited when empty."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a queued job has not started."""

    reason: Literal[
        "next_in_line", "gpu_busy", "cpu_busy", "behind_others", "gpu_unknown", "exceeds_machine", "engine_unavailable"
    ]
    detail: str
    position: int
    """Place in the queue, from 1."""
    eta_s: float | None = None
    """Seconds until it may start, when that can be told."""


class EndReason(StrEnum):
    """Why an attempt ended."""

    COMPLETED = "completed"
    PAUSED = "paused"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    USER_ERROR = "user_error"
    EXIT_CODE = "exit_code"
    HOST_OOM = "host_oom"
    CUDA_OOM = "cuda_oom"
    TIMEOUT = "timeout"
    KILLED = "killed"
    IMAGE_MISSING = "image_missing"
    LAUNCH_FAILED = "launch_failed"
    ALREADY_CLAIMED = "already_claimed"
    INTERNAL_ERROR = "internal_error"
    LOST = "lost"


STATUS_OF: dict[EndReason, JobStatus] = {
    EndReason.COMPLETED: JobStatus.COMPLETED,
    EndReason.PAUSED: JobStatus.PAUSED,
    EndReason.STOPPED: JobStatus.STOPPED,
    EndReason.CANCELLED: JobStatus.CANCELLED,
} | {
    reason: JobStatus.FAILED
    for reason in EndReason
    if reason not in {EndReason.COMPLETED, EndReason.PAUSED, EndReason.STOPPED, EndReason.CANCELLED}
}
"""How an attempt's end settles its job: the one table."""


@dataclass(frozen=True, slots=True)
class JobFailure:
    """What went wrong with a job and what to do about it."""

    reason: EndReason
    message: str
    field: str | None = None
    suggestion: str | None = None

    @classmethod
    def reported(cls, failure: Failure) -> "JobFailure":
        """The worker's own account of it; the field it names is a parameter."""
        field = f"params.{failure.field}" if failure.field else None
        return cls(EndReason(failure.code), failure.message, field, failure.suggestion)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a job."""

    job_id: UUID
    number: int
    executor: str
    """Name of the executor that runs it."""
    created_at: datetime
    handle: str | None = None
    """The executor's name for it, once launched."""
    cpus: float = 1.0
    """CPU cores granted."""
    gpus: tuple[str, ...] = ()
    """UUIDs of the GPUs it leases."""
    resume_from: str | None = None
    """Checkpoint directory it continues from."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    end_reason: EndReason | None = None
    detail: str | None = None
    events_offset: int = 0
    """Bytes of ``events.jsonl`` already stored."""

    @property
    def name(self) -> str:
        """Deterministic, so that launching twice collides instead of running twice."""
        return f"saeforge-{self.job_id}-{self.number}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state of training on disk, from which an attempt can continue."""

    job_id: UUID
    attempt: int
    name: str
    """Directory under the attempt's ``checkpoints/``."""
    step: int
    loss: float | None
    size_bytes: int
    digest: str
    reason: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Artifact:
    """A result file an attempt left."""

    job_id: UUID
    attempt: int
    path: str
    """Relative to the attempt's ``artifacts/``."""
    kind: str
    size_bytes: int
    digest: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Job:
    """One request to run a job type."""

    id: UUID
    name: str
    params: Params
    resources: Resources
    status: JobStatus
    created_at: datetime
    owner: str = "default"
    priority: int = 0
    tags: tuple[str, ...] = ()
    intent: Intent = "run"
    phase: str = ""
    """What it is doing, in the worker's or the orchestrator's words."""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    failure: JobFailure | None = None
    wait: Wait | None = None
    restarted_from: UUID | None = None
    """The ended job this one repeats or continues."""
    resume_from: str | None = None
    """Checkpoint directory the next attempt continues from."""
    attempts: int = 0
    """How many attempts were begun."""
    inputs: dict[str, str] | None = None
    """Reference field -> what it resolved to when the job was submitted."""
    progress: dict[str, object] | None = None
    """The newest progress event."""
    metrics: dict[str, float] | None = None
    """The newest metrics, with ``step``."""
    results: dict[str, float] | None = None
    """Final figures of a finished run."""

    @property
    def type(self) -> str:
        return self.params.type
