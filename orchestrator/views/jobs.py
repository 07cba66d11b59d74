"""A job, with its attempts and commands."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from orchestrator.domain import Attempt, EndReason, Job, JobStatus, Resources, RetryPolicy
from orchestrator.views.base import View


class WaitView(View):
    reason: str
    detail: str
    position: int
    eta_s: float | None


class FailureView(View):
    reason: EndReason
    message: str
    field: str | None
    suggestion: str | None


class AttemptView(View):
    number: int
    executor: str
    handle: str | None
    """Container id, or the executor's own name for it."""
    gpus: list[str]
    resume_from: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None
    end_reason: EndReason | None
    detail: str | None
    peak_memory_mb: int | None = None
    """The most memory it was seen to use, in MiB."""
    peak_gpu_memory_mb: int | None = None
    """The most memory of one GPU it was seen to use, in MiB."""

    @classmethod
    def of(cls, attempt: Attempt) -> "AttemptView":
        return cls.model_validate(attempt, from_attributes=True)


class CommandView(View):
    """A command as requested, and what became of it."""

    id: UUID
    type: str
    attempt: int
    requested_at: datetime
    status: Literal["requested", "applied", "rejected", "expired"]
    settled_at: datetime | None
    detail: str


class DifferenceView(View):
    """A parameter that is asked to be another."""

    name: str
    now: Any
    """As it is in force."""
    wanted: Any
    applies: Literal["now", "new_job"]
    """Whether the job takes it up as it is, or it wants a new job."""


class ParameterChanges(View):
    """What differs from the parameters in force, and what was asked of the job."""

    differences: list[DifferenceView]
    command_id: UUID | None
    """The command that asks for what can be taken up now; none when nothing can, or when only asked what would be."""


class JobView(View):
    """A job, as listed."""

    id: UUID
    type: str
    name: str
    owner: str
    priority: int
    tags: list[str]
    status: JobStatus
    intent: str
    """What was asked for last: run, pause, stop or cancel. The status is what is so."""
    phase: str
    params: dict[str, Any]
    secrets: list[str] = []
    """Names of the secrets it finds as files."""
    resources: Resources
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    wait: WaitView | None
    """Why it has not started; only while queued."""
    failure: FailureView | None
    """What ended it, or its last attempt while it is tried again or waits to be resumed."""
    retry: RetryPolicy = RetryPolicy()
    retries: int = 0
    """Further attempts in a row made after failures."""
    not_before: datetime | None = None
    """When a queued job may start at the earliest: it waits between attempts."""
    progress: dict[str, Any] | None
    metrics: dict[str, float] | None
    """Newest metrics with their step."""
    results: dict[str, float] | None
    restarted_from: UUID | None
    sweep: UUID | None = None
    """The sweep it belongs to."""
    attempts: int
    log_path: str | None
    """The newest attempt's log file on the orchestrator's machine."""
    result_path: str | None
    """The newest attempt's artifacts directory on the orchestrator's machine."""
    archived_at: datetime | None = None
    """When it was put aside, some time after it ended: its log is packed, and only its newest checkpoint kept."""


class JobDetail(JobView):
    """One job, with its attempts and commands."""

    attempt_list: list[AttemptView]
    commands: list[CommandView]
    available_actions: list[str]
    """Actions the job's state allows now: cancel, pause, resume, stop, checkpoint, restart, purge."""
    gpu_hours: float = 0.0
    """That its attempts have run so far, times their GPUs."""
    cost: float | None = None
    """Of these hours, in the currency of SAEFORGE_GPU_HOUR_PRICE; empty when that is not set, or it had no GPU."""
    tensorboard_logdir: str | None = None
    """Directory on the orchestrator's machine that "tensorboard --logdir" shows; empty unless the job writes for it."""
    tensorboard_url: str | None = None
    """Its runs in the TensorBoard that SAEFORGE_TENSORBOARD_URL names."""


class JobPage(View):
    items: list[JobView]
    total: int
    """Jobs that match, on all pages."""
    next_cursor: str | None = None
    """Pass it as ``cursor`` for the next page; empty on the last one, and for an order that has none."""


def job_view_fields(job: Job, log_path: str | None, result_path: str | None) -> dict[str, Any]:
    """The fields every job view has."""
    return {
        "id": job.id,
        "type": job.type,
        "name": job.name,
        "owner": job.owner,
        "priority": job.priority,
        "tags": list(job.tags),
        "status": job.status,
        "intent": job.intent,
        "phase": job.phase,
        "params": job.params.model_dump(mode="json"),
        "secrets": list(job.secrets),
        "resources": job.resources,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "wait": job.wait,
        "failure": job.failure,
        "retry": job.retry,
        "retries": job.retries,
        "not_before": job.not_before,
        "progress": job.progress,
        "metrics": job.metrics,
        "results": job.results,
        "archived_at": job.archived_at,
        "restarted_from": job.restarted_from,
        "sweep": job.sweep,
        "attempts": job.attempts,
        "log_path": log_path,
        "result_path": result_path,
    }
