"""The nouns: Job, Attempt, Resources, and the one table of what may follow what."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from worker_image.contract.events import Failure
from worker_image.contract.jobs import (
    ContainerParams,
    EvaluateSaeParams,
    HarvestActivationsParams,
    SaeFeaturesParams,
    TrainSaeParams,
)

Params = TrainSaeParams | HarvestActivationsParams | EvaluateSaeParams | SaeFeaturesParams | ContainerParams


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    """Waiting for its turn, for the first time or again, with a reason that says why."""
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
            JobStatus.QUEUED,
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
            JobStatus.QUEUED,
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
            JobStatus.QUEUED,
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

Intent = Literal["run", "requeue", "pause", "stop", "cancel"]
"""What is wanted of a job; its status says what is. ``requeue``: to make room now and to run again later, which is the
scheduler's wish; the others are the user's."""


class FailureClass(StrEnum):
    """What kind of failure ended an attempt: what decides whether another try can help."""

    HOST_OOM = "host_oom"
    CUDA_OOM = "cuda_oom"
    IMAGE = "image"
    USER_ERROR = "user_error"
    TIMEOUT = "timeout"
    ENGINE = "engine"
    LOST = "lost"
    DISK_FULL = "disk_full"
    INTERNAL = "internal"


DEFAULT_RETRIES = 3
"""Retries of a kind of failure that is tried again only because the job asks for it."""

RETRIES: dict[FailureClass, int] = {
    FailureClass.HOST_OOM: 1,
    FailureClass.CUDA_OOM: 0,
    FailureClass.IMAGE: 3,
    FailureClass.USER_ERROR: 0,
    FailureClass.TIMEOUT: 0,
    FailureClass.ENGINE: 5,
    FailureClass.LOST: 3,
    FailureClass.DISK_FULL: 5,
    FailureClass.INTERNAL: 0,
}
"""Kind of failure -> further attempts in a row, unless the job says otherwise.

What would fail the same way again gets none: a user's error, a GPU too small (the worker has halved its micro-batch by
then), a defect of ours. Memory of the machine may have been short because of a neighbour: once. Nothing starts on a
full disk, so a retry after one finds room.
"""


class Resources(BaseModel):
    """What one attempt asks for."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    gpus: int | None = Field(default=None, ge=0, le=64)
    """GPUs; when empty, one if the job type uses GPUs and the machine has any, else none."""
    gpu_memory_mb: int | None = Field(default=None, ge=64, le=16_777_216)
    """Memory in MiB the job needs of its one GPU, which it then shares with other such jobs as far as theirs fits; when
    empty, its GPUs are its own."""
    gpu_ids: tuple[str, ...] = Field(default=(), max_length=64)
    """Only these GPUs, by UUID or index; any when empty."""
    gpu_model: str | None = Field(default=None, min_length=1, max_length=100)
    """Only GPUs whose name contains this, e.g. "H100", whatever the case; any when empty."""
    cpus: float | None = Field(default=None, gt=0, le=1024)
    """CPU cores; when empty, one for plain containers and, for types that use GPUs, an even share per GPU (all cores
    on a machine without GPUs)."""
    memory_mb: int | None = Field(default=None, ge=64, le=16_777_216)
    """Memory limit in MiB; exceeding it ends the attempt. Jobs start only while their limits fit the machine together.
    Not limited, and not counted, when empty."""
    shm_mb: int = Field(default=256, ge=1, le=1_048_576)
    """Shared memory (/dev/shm) in MiB."""
    pids: int = Field(default=4096, ge=16, le=4_194_304)
    """Most processes and threads."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Longest run of one attempt in seconds; not limited when empty."""

    @model_validator(mode="after")
    def _one_shared(self) -> Self:
        if self.gpu_memory_mb is not None and self.gpus is not None and self.gpus != 1:
            raise ValueError("gpu_memory_mb: only a job of one GPU can share it; set gpus to 1 or leave it out")
        return self


class RetryPolicy(BaseModel):
    """How often, and how soon, a job that failed through no fault of its own is tried again.

    Each attempt continues from the newest checkpoint. What is worth another try, and how often, is told by
    ``RETRIES``; this bounds it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    max_retries: int | None = Field(default=None, ge=0, le=1000)
    """Most further attempts in a row; as many as its kind of failure is given when empty, none when 0."""
    backoff_s: float = Field(default=10.0, ge=0, le=86_400)
    """Seconds before the first of them."""
    multiplier: float = Field(default=2.0, ge=1, le=100)
    """Factor by which each further one waits longer."""
    max_backoff_s: float = Field(default=600.0, ge=0, le=604_800)
    """Longest wait before one, in seconds."""
    on: tuple[FailureClass, ...] | None = None
    """Kinds of failure to try again after; those that ``RETRIES`` gives any retries when empty."""
    on_failure: Literal["fail", "pause"] = "fail"
    """What becomes of a job that failed and is not tried again. ``pause``: it waits with its state kept until it is
    resumed, changed or not."""

    def retries(self, kind: FailureClass) -> int:
        """How many further attempts in a row a failure of this kind gets."""
        if self.on is not None and kind not in self.on:
            return 0
        given = RETRIES[kind]
        if self.max_retries is None:
            return given if self.on is None else max(given, DEFAULT_RETRIES)
        return self.max_retries if given or self.on is not None else 0

    def delay_s(self, retry: int) -> float:
        """Seconds to wait before the ``retry``-th further attempt, from 1."""
        # Bounded before it is raised to a power that no float holds.
        return min(self.backoff_s * self.multiplier ** min(retry - 1, 64), self.max_backoff_s)


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What a job asks for. The store makes one for all jobs that ask alike, so that they are looked at together."""

    type: str
    resources: Resources


@dataclass(frozen=True, slots=True)
class Queued:
    """A queued job, as much of it as decides when its turn comes."""

    id: UUID
    owner: str
    priority: int
    created_at: float
    """Seconds since the epoch."""
    shape: Shape
    not_before: float | None = None
    """Seconds since the epoch before which it may not start: it waits between attempts."""
    sweep: UUID | None = None
    """The sweep it belongs to."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose jobs they are: the owner's part of the machine, limits, and past use."""

    name: str
    share: float = 1.0
    """Weight against other owners of the same priority."""
    max_running: int | None = None
    """Most jobs that hold anything at a time; not limited when empty."""
    max_gpus: int | None = None
    """Most GPUs held at a time, a shared one counted by the part of its memory; not limited when empty."""
    max_queued: int | None = None
    """Most jobs in the queue; a further one is refused. Not limited when empty."""
    usage: float = 0.0
    """What ended attempts used, in weighted GPU seconds, decayed to ``usage_at``."""
    usage_at: float = 0.0
    """Seconds since the epoch."""


WaitReason = Literal[
    "next_in_line",
    "gpu_busy",
    "gpu_memory_busy",
    "cpu_busy",
    "memory_busy",
    "behind_others",
    "quota",
    "concurrency",
    "backoff",
    "preempting",
    "gpu_unknown",
    "exceeds_machine",
    "engine_unavailable",
    "disk_full",
]


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a queued job has not started."""

    reason: WaitReason
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
    GPU_ABSENT = "gpu_absent"
    GPU_LOST = "gpu_lost"
    DISK_FULL = "disk_full"
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


FAILURE_CLASS: dict[EndReason, FailureClass] = {
    EndReason.USER_ERROR: FailureClass.USER_ERROR,
    EndReason.EXIT_CODE: FailureClass.USER_ERROR,
    EndReason.HOST_OOM: FailureClass.HOST_OOM,
    EndReason.CUDA_OOM: FailureClass.CUDA_OOM,
    # An image or a driver that cannot do it; the next try would meet the same one.
    EndReason.GPU_ABSENT: FailureClass.USER_ERROR,
    # The next attempt gets another GPU: one that does not answer is not handed out.
    EndReason.GPU_LOST: FailureClass.LOST,
    EndReason.DISK_FULL: FailureClass.DISK_FULL,
    EndReason.TIMEOUT: FailureClass.TIMEOUT,
    EndReason.KILLED: FailureClass.LOST,
    EndReason.LOST: FailureClass.LOST,
    EndReason.IMAGE_MISSING: FailureClass.IMAGE,
    EndReason.LAUNCH_FAILED: FailureClass.ENGINE,
    EndReason.ALREADY_CLAIMED: FailureClass.INTERNAL,
    EndReason.INTERNAL_ERROR: FailureClass.INTERNAL,
}
"""Of every end that fails a job."""


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
    memory_mb: int = 0
    """Memory of the machine granted, in MiB; 0 when it is not limited."""
    gpus: tuple[str, ...] = ()
    """UUIDs of the GPUs it leases."""
    gpu_memory_mb: int | None = None
    """Memory of its GPU granted, in MiB, when it shares it; its GPUs are its own when empty."""
    resume_from: str | None = None
    """Checkpoint directory it continues from."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    end_reason: EndReason | None = None
    detail: str | None = None
    events_offset: int = 0
    """Bytes of ``events.jsonl`` already stored."""
    peak_memory_mb: int | None = None
    """The most memory it was seen to use, in MiB."""
    peak_gpu_memory_mb: int | None = None
    """The most memory of one GPU it was seen to use, in MiB."""

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
    held_out_loss: float | None = None
    """Loss on held-out tokens, where it was measured."""

    @property
    def is_anomaly(self) -> bool:
        """Whether it shows what went wrong, and nothing can continue from it."""
        return self.name.startswith("anomaly_")


def best_checkpoint(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The one with the lowest loss on held-out tokens, the earliest of equals; None when none was measured."""
    measured = [item for item in checkpoints if item.held_out_loss is not None and not item.is_anomaly]
    return min(measured, key=lambda item: (item.held_out_loss, item.attempt, item.step), default=None)


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
    sweep: UUID | None = None
    """The sweep it belongs to."""
    attempts: int = 0
    """How many attempts were begun."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    retries: int = 0
    """Further attempts in a row made after failures, without anybody's asking."""
    not_before: datetime | None = None
    """When a queued job may start at the earliest: it waits between attempts."""
    secrets: tuple[str, ...] = ()
    """Names of the secrets it finds as files."""
    inputs: dict[str, str] | None = None
    """Reference field -> what it resolved to when the job was submitted."""
    progress: dict[str, object] | None = None
    """The newest progress event."""
    metrics: dict[str, float] | None = None
    """The newest metrics, with ``step``."""
    results: dict[str, float] | None = None
    """Final figures of a finished run."""
    archived_at: datetime | None = None
    """When it was put aside, some time after it ended."""
    purging_at: datetime | None = None
    """Since when it is being deleted for good, with its files."""

    @property
    def type(self) -> str:
        return self.params.type


@dataclass(frozen=True, slots=True)
class Sweep:
    """Many jobs of one type from one request, which differ in some parameters."""

    id: UUID
    name: str
    type: str
    owner: str
    varied: tuple[str, ...]
    """The parameters that differ between them."""
    created_at: datetime
    max_running: int | None = None
    """Most of them that run at once; as many as there is room for when empty."""
