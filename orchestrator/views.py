"""What the API answers with: one model per shape, shared by the API and the Python client."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr

from orchestrator.access import Role
from orchestrator.domain import Attempt, EndReason, Job, JobStatus, Resources, RetryPolicy
from orchestrator.sweeps import SweepSpace


class _View(BaseModel):
    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)


class ErrorDetails(_View):
    field: str | None = None
    """The part of the request at fault."""
    suggestion: str | None = None
    """What to do about it."""


class ErrorView(_View):
    """The one shape of every error answer."""

    code: str
    message: str
    details: ErrorDetails = ErrorDetails()
    timestamp: datetime


class TypedSubmission(BaseModel):
    """Body of ``POST /api/jobs/{type}``: the path tells the type."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    params: dict[str, Any] = {}
    """Parameters of that type; GET /api/job-types has their schemas."""
    name: str | None = Field(default=None, min_length=1, max_length=200)
    """What to call the job; made from its type when empty."""
    owner: str | None = Field(default=None, min_length=1, max_length=100)
    """Whose job it is: the owner its key acts for, or "default", when empty."""
    priority: int = Field(default=0, ge=-1000, le=1000)
    """Higher starts earlier."""
    tags: list[str] = Field(default=[], max_length=50)
    resources: Resources = Resources()
    retry: RetryPolicy = RetryPolicy()
    secrets: list[str] = Field(default=[], max_length=50)
    """Names of secrets that it finds as files in the directory that SAEFORGE_SECRETS_DIR names."""


class JobSubmission(TypedSubmission):
    """Body of ``POST /api/jobs``."""

    type: str
    """Job type, e.g. "train_sae"."""


class SweepSubmission(JobSubmission, SweepSpace):
    """Body of ``POST /api/sweeps``: a job's submission, and which of its parameters are varied."""

    max_running: int | None = Field(default=None, ge=1)
    """Most of its jobs that run at once; as many as there is room for when empty."""


class SweepChanges(BaseModel):
    """Body of ``PATCH /api/sweeps/{id}``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    max_running: int | None = Field(ge=1)
    """Most of its jobs that run at once; null for as many as there is room for."""


class SweepView(_View):
    """A sweep, with how its jobs stand."""

    id: UUID
    name: str
    type: str
    owner: str
    varied: list[str]
    """The parameters that differ between its jobs."""
    max_running: int | None
    created_at: datetime
    jobs: dict[JobStatus, int]
    """How many of its jobs are in each status."""


class SweepPage(_View):
    items: list[SweepView]


class SweepPoint(_View):
    """One job of a sweep, with what it was given and what came of it."""

    job_id: UUID
    name: str
    status: JobStatus
    params: dict[str, Any]
    """The varied ones."""
    values: dict[str, float]
    """Its results, or its newest metrics while it has none."""


class SweepResults(_View):
    items: list[SweepPoint]
    """In the order of their making; by the metric, best first, when one is named."""


class SweepActed(_View):
    """What became of an action on all jobs of a sweep."""

    done: int
    """Jobs it was asked of."""
    left: int
    """Jobs whose status does not allow it."""


class StepView(_View):
    """A step of a pipeline."""

    name: str
    type: str
    needs: dict[str, str]
    """Steps that must have ended before, and how."""
    state: str
    """waiting, started, skipped or refused; of a started one the job tells the rest."""
    detail: str
    """Why it was skipped or refused."""
    job_id: UUID | None
    status: JobStatus | None
    """Of its job; empty when it has none, or none any more."""


class PipelineView(_View):
    """Jobs in steps, and how they stand."""

    id: UUID
    name: str
    owner: str
    tags: list[str]
    created_at: datetime
    status: Literal["running", "completed", "failed", "cancelled"]
    """Running until every step has ended; failed if one ended badly or could not start."""
    steps: list[StepView]


class PipelinePage(_View):
    items: list[PipelineView]


class ScheduleView(_View):
    """What is submitted again and again, and when."""

    id: UUID
    name: str
    owner: str
    cron: str
    timezone: str
    overlap: str
    kind: str
    submission: dict[str, Any]
    enabled: bool
    created_at: datetime
    next_at: datetime
    """When it submits next, while it is enabled."""
    last_at: datetime | None
    made: UUID | None
    """The job or pipeline it submitted last."""
    detail: str
    """What came of it the last time it was due."""


class SchedulePage(_View):
    items: list[ScheduleView]


class ScheduleChanges(BaseModel):
    """Body of ``PATCH /api/schedules/{id}``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    enabled: bool
    """Whether it goes on submitting. Times that passed while it did not are not made up for."""


class JobChanges(BaseModel):
    """Body of ``PATCH /api/jobs/{id}``: what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str | None = Field(default=None, min_length=1, max_length=200)
    tags: list[str] | None = Field(default=None, max_length=50)
    """All tags it is to have."""
    priority: int | None = Field(default=None, ge=-1000, le=1000)
    """Higher starts earlier; of a job that has not ended."""
    resources: Resources | None = None
    """What its next attempt asks for, as a whole; of a queued or paused job."""
    retry: RetryPolicy | None = None
    """Of a job that has not ended."""


class CloneRequest(JobChanges):
    """Body of ``POST /api/jobs/{id}/clone``: what the new job is to have instead of the old one's."""

    params: dict[str, Any] = {}
    """Parameters to change; the others stay."""
    owner: str | None = Field(default=None, min_length=1, max_length=100)
    secrets: list[str] | None = Field(default=None, max_length=50)
    """All secrets it is to have."""


class WaitView(_View):
    reason: str
    detail: str
    position: int
    eta_s: float | None


class FailureView(_View):
    reason: EndReason
    message: str
    field: str | None
    suggestion: str | None


class AttemptView(_View):
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


class CommandView(_View):
    """A command as requested, and what became of it."""

    id: UUID
    type: str
    attempt: int
    requested_at: datetime
    status: Literal["requested", "applied", "rejected", "expired"]
    settled_at: datetime | None
    detail: str


class JobView(_View):
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
    """What ended it, or its last attempt while it is tried again."""
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


class JobPage(_View):
    items: list[JobView]
    total: int
    """Jobs that match, on all pages."""
    next_cursor: str | None = None
    """Pass it as ``cursor`` for the next page; empty on the last one, and for an order that has none."""


class LogGap(_View):
    """Bytes of a log that are not there any more."""

    offset: int
    next_offset: int
    """Where the log goes on."""
    bytes: int
    """How many they were."""
    reason: Literal["quota"]
    message: str
    """The line that stands for them."""


class LogChunk(_View):
    """A piece of one attempt's log."""

    attempt: int
    offset: int
    """Byte offset of the first byte of ``data``."""
    next_offset: int
    """Where to go on reading."""
    size_bytes: int
    """Bytes in the log so far, with those that were dropped of it."""
    encoding: Literal["utf-8", "base64"] = "utf-8"
    data: str
    """UTF-8 text, in which bytes that are not text show as U+FFFD and dropped ones as a line that says how many; or
    the exact bytes in base64, without those of the gaps."""
    gaps: list[LogGap] = []
    """What the quota dropped between ``offset`` and ``next_offset``, in order."""


class EventView(_View):
    """A stored event: the worker's own (attempt and seq set) or the orchestrator's."""

    id: int
    """Position among all events of this orchestrator; pass it as ``after`` to go on."""
    job_id: UUID
    attempt: int | None
    seq: int | None
    ts: datetime
    type: str
    name: str | None = None
    """Its public name, e.g. "training:progress"; empty for events that have none."""
    data: dict[str, Any]


class EventPage(_View):
    items: list[EventView]
    next_after: int
    """Pass it as ``after`` to go on; it may lie beyond the last item, when a filter passed others over."""


class MetricPoint(_View):
    step: int
    ts: datetime
    values: dict[str, float]
    """The series that have a point here; after thinning each series keeps points of its own."""


class SeriesStats(_View):
    """What is known of one series in the asked range, before thinning."""

    name: str
    count: int
    min: float
    max: float
    mean: float
    std: float | None
    """Standard deviation; empty where a float cannot hold it."""
    first: float
    last: float


class MetricStats(SeriesStats):
    first_step: int
    last_step: int
    min_step: int
    """The earliest step with the lowest value."""
    max_step: int
    """The earliest step with the highest value."""


class MetricSeries(_View):
    items: list[MetricPoint]
    total: int
    """Points of the longest series in the asked range, before thinning."""
    series: list[MetricStats] = []
    after: int = 0
    """Id of an event up to which everything is in here: follow the job's events after it for what comes next."""


class ResourcePoint(_View):
    ts: datetime
    values: dict[str, float]
    """cpu_cores, memory_bytes and, of each leased GPU n, gpu<n>.memory_bytes (all that is used on it),
    gpu<n>.job_memory_bytes (of this job's own processes), gpu<n>.utilization (0 to 1), gpu<n>.temperature_c and
    gpu<n>.power_w. What cannot be measured is left out."""


class ResourceStats(SeriesStats):
    first_ts: datetime
    last_ts: datetime
    min_ts: datetime
    max_ts: datetime


class ResourceHistory(_View):
    items: list[ResourcePoint]
    total: int
    """Points of the longest series in the asked range, before thinning."""
    series: list[ResourceStats] = []


class CheckpointView(_View):
    attempt: int
    name: str
    step: int
    loss: float | None
    size_bytes: int
    digest: str
    reason: str
    created_at: datetime
    path: str
    """Directory on the orchestrator's machine."""


class ArtifactView(_View):
    attempt: int
    path: str
    kind: str
    size_bytes: int
    digest: str
    created_at: datetime
    url: str
    """Where to download it, relative to the API's root."""


class JobTypeView(_View):
    type: str
    title: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema of the parameters."""
    commands: list[str]
    resumable: bool
    uses_gpu: bool


class GpuProcessView(_View):
    """A process on a GPU."""

    pid: int
    """As the machine itself counts processes."""
    name: str
    """Of its program; empty when it cannot be told."""
    memory_mb: int | None
    """Of the GPU's memory, in MiB."""
    job_id: UUID | None
    """The job it belongs to."""
    foreign: bool
    """Whether it has no business here: from outside, or of a job that does not hold this GPU."""


class GpuView(_View):
    uuid: str
    index: int
    name: str
    memory_total_mb: int
    memory_used_mb: int
    utilization: float | None
    """Share of time busy, 0 to 1."""
    temperature_c: float | None
    power_w: float | None
    leased_by: list[UUID]
    """The jobs that hold it: one, or several that share it."""
    foreign_processes: int
    """Processes from outside the orchestrator; such a GPU is not handed out."""
    instance: int | None = None
    """Number of the instance of a partitioned GPU (MIG); empty for a whole one."""
    power_limit_w: float | None = None
    throttling: list[str] = []
    """Why its clocks are lower than they could be, in words."""
    uncorrected_errors: int | None = None
    """Memory errors that ECC could not correct since the driver was loaded."""
    last_xid: int | None = None
    """The last error (Xid) the driver reported of it since the orchestrator started."""
    problems: list[str] = []
    """What is wrong with it, in words."""
    lost: bool = False
    """It does not answer any more; its figures are the last ones seen, and it is not handed out."""
    processes: list[GpuProcessView] = []


class EngineView(_View):
    """What runs the jobs' containers."""

    name: str
    """Of the executor."""
    answer: str | None = None
    """What the engine calls itself; empty when it does not answer."""
    error: str | None = None
    latency_s: float | None = None
    """How long it took to answer the last time."""
    facts: dict[str, str] = {}
    """What it tells of itself, e.g. its storage driver."""


class QueueView(_View):
    """The queue in figures; by status they are in ``jobs``."""

    by_reason: dict[str, int] = {}
    """Queued jobs by the reason why they wait, as of the last plan."""
    oldest_age_s: float | None = None
    """How long the job that was submitted first has waited."""
    running_attempts: int = 0
    begun_last_hour: int = 0
    """Attempts."""
    ended_last_hour: int = 0


class OrchestratorView(_View):
    """What the orchestrator itself takes."""

    uptime_s: float
    memory_mb: float
    """Resident memory in MiB."""
    cpu_percent: float
    """Of one core."""
    open_files: int


class TraceView(_View):
    """One figure over time; a moment at which it was not to be had is left out."""

    times: list[float]
    """Seconds since the epoch."""
    values: list[float]


class HistoryView(_View):
    """The machine over time."""

    until: datetime
    step_s: float
    """Seconds between two samples, before thinning."""
    traces: dict[str, TraceView]
    """Figure -> its course; those of a GPU are named ``gpu/<uuid>/<figure>``."""


class SystemStatus(_View):
    version: str
    executor: str
    engine: str | None
    """What the engine calls itself; empty when it does not answer."""
    engine_error: str | None
    gpus: list[GpuView]
    gpu_error: str | None
    """Why GPUs cannot be seen, when they cannot."""
    cpus: float
    cpu_percent: float
    memory_total_mb: int
    memory_used_mb: int
    swap_total_mb: int
    swap_used_mb: int
    disk_total_mb: int
    disk_free_mb: int
    disk_error: str | None = None
    """Why no new attempt starts for want of disk space."""
    home: str
    jobs: dict[JobStatus, int]
    uptime_s: float
    gpu_driver: str | None = None
    """Its version."""
    core_percent: list[float] = []
    """Of each core, 0 to 100."""
    load_average: list[float] = []
    """Tasks that run or want to, averaged over 1, 5 and 15 minutes."""
    inodes_total: int = 0
    """Files the disk can hold; 0 where it knows no such limit."""
    inodes_free: int = 0
    engine_health: EngineView | None = None
    queue: QueueView = QueueView()
    orchestrator: OrchestratorView | None = None


class ModelView(_View):
    """A model or dataset on disk."""

    name: str
    path: str
    size_bytes: int
    modified_at: datetime
    detail: dict[str, Any]
    """What its configuration tells, e.g. architecture, layers, hidden size."""


class Inventory(_View):
    models: list[ModelView]
    datasets: list[ModelView]
    saes: list[ArtifactView]


class TrainingDetail(JobDetail):
    """A training, with what it is about."""

    model: ModelView | None
    """Empty when it is on no disk here: a hub id, or gone since."""
    dataset: ModelView | None
    """Empty when it is gone."""


class WebhookRequest(BaseModel):
    """Body of ``POST /api/webhooks``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    url: str = Field(min_length=1, max_length=2048)
    """Where to send to: http or https, on the public internet or allowed by SAEFORGE_WEBHOOK_ALLOW."""
    events: list[str] = Field(default=["job_created", "status_changed"], min_length=1, max_length=50)
    """What to tell: names of events, such as training:completed, or their stored types."""
    statuses: list[JobStatus] = Field(default=[], max_length=20)
    """Of changes of status only those to one of these; all when empty."""
    owner: str | None = Field(default=None, min_length=1, max_length=100)
    """Only of this owner's jobs."""
    tag: str | None = Field(default=None, min_length=1, max_length=200)
    """Only of jobs with this tag."""
    description: str = Field(default="", max_length=500)
    """What it is for."""


class WebhookView(_View):
    """Who is told of what, and how far that is."""

    id: UUID
    url: str
    events: list[str]
    statuses: list[JobStatus]
    owner: str | None
    tag: str | None
    description: str
    created_at: datetime
    disabled: str | None
    """Why nothing is sent any more, until it is enabled again."""
    cursor: int
    """Id of the last event that it was told of or that passed before it was made."""
    tries: int
    """Tries of the event that is next, so far, that failed."""
    next_try_at: datetime


class NewWebhookView(WebhookView):
    secret: str
    """Signs what is sent. Nobody can tell it again."""


class WebhookTryView(_View):
    """What became of one try."""

    event_id: int | None
    """Empty of a ping."""
    type: str
    number: int
    """From 1 for each event."""
    at: datetime
    duration_s: float
    status_code: int | None
    """Empty when nobody answered."""
    error: str | None
    """Why it does not count as delivered; empty when it does."""


class BackupView(_View):
    """A copy of the database."""

    path: str
    """File on the orchestrator's machine."""
    size_bytes: int
    created_at: datetime


class CleanupRequest(BaseModel):
    """Body of ``POST /api/system/cleanup``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    older_than_days: float | None = Field(default=None, ge=0, le=36_500)
    """Archive jobs that ended longer ago; SAEFORGE_ARCHIVE_AFTER_DAYS when empty."""
    dry_run: bool = False
    """Only say what would be done."""
    orphans: bool = False
    """Delete the run directories of no known job as well."""


class OrphanView(_View):
    """A run directory of no known job."""

    path: str
    size_bytes: int


class CleanupView(_View):
    """What was cleaned up, or would be in a dry run."""

    dry_run: bool
    jobs: int
    """Jobs archived."""
    checkpoints: int
    """Checkpoints removed."""
    freed_bytes: int
    """Bytes given back; what packing saves is not known beforehand, so a dry run leaves it out."""
    log_bytes: int
    """Bytes of logs and event files before they were packed."""
    left: int
    """Jobs that are due and were not reached: ask again."""
    orphans: list[OrphanView]
    """Run directories of no known job."""
    orphans_removed: bool


class TicketRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    job_id: UUID | None = None
    """Job the ticket is good for; all jobs when empty."""


class TicketView(_View):
    ticket: str
    expires_in_s: float


class PrincipalView(_View):
    """For whom a request speaks."""

    id: str
    """Id of the key, "token:<subject>", "machine" or "anonymous"."""
    name: str
    role: Role
    owner: str | None
    """The only owner whose jobs it sees and acts on; all when empty."""
    types: list[str]
    """The only job types it sees and acts on; all when empty."""
    expires_at: datetime | None


class KeyRequest(BaseModel):
    """Body of ``POST /api/keys``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=100)
    """What people call it: who or what it is for."""
    role: Role = Role.READ
    """read, write (submit and act on jobs) or admin (manage keys as well)."""
    owner: str | None = Field(default=None, min_length=1, max_length=100)
    """The only owner whose jobs it sees and acts on; all when empty."""
    types: list[str] = Field(default=[], max_length=50)
    """The only job types it sees and acts on; all when empty."""
    expires_at: AwareDatetime | None = None
    """When it stops working; never when empty."""


class KeyView(_View):
    """An API key, without the key itself."""

    id: str
    name: str
    role: Role
    owner: str | None
    types: list[str]
    created_at: datetime
    created_by: str
    """Id of the principal that made it."""
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """Written down once a minute."""


class NewKeyView(KeyView):
    key: str
    """The key itself. Nobody can tell it again."""


class TokenRequest(BaseModel):
    """Body of ``POST /api/tokens``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    role: Role | None = None
    """No mightier than one's own, which it is when empty."""
    lifetime_s: float = Field(default=3600.0, ge=1, le=86_400)
    """Seconds it is good for; never longer than the key it is made from."""


class TokenView(_View):
    token: str
    expires_at: datetime


class SecretRequest(BaseModel):
    """Body of ``PUT /api/secrets/{name}``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    value: SecretStr = Field(min_length=1, max_length=65_536)
    """What nobody is told again."""


class SecretView(_View):
    """A secret, without its value."""

    name: str
    owner: str | None
    """Whose jobs may use it; everybody's when empty."""
    updated_at: datetime


class Health(_View):
    status: Literal["ok", "degraded"]
    ready: bool
    version: str
    engine: str | None
    disk_error: str | None = None
    """Why no new attempt starts for want of disk space."""
    parts: dict[str, bool] = {}
    """What it needs to take and start jobs -> whether that is well."""


class Liveness(_View):
    status: Literal["ok"] = "ok"


class Readiness(_View):
    ready: bool
    parts: dict[str, bool]
    """What it needs to take and start jobs -> whether that is well."""


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
