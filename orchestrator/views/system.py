"""The machine, the engine and the orchestrator, now and over time."""

from datetime import datetime

from orchestrator.domain import JobStatus
from orchestrator.views.base import View
from orchestrator.views.gpus import GpuView


class EngineView(View):
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


class QueueView(View):
    """What is within the key's reach of the queue, in figures; by status they are in ``jobs``."""

    by_reason: dict[str, int] = {}
    """Queued jobs by the reason why they wait, as of the last plan."""
    oldest_age_s: float | None = None
    """How long the job that was submitted first has waited."""
    running_attempts: int = 0
    begun_last_hour: int = 0
    """Attempts."""
    ended_last_hour: int = 0


class OrchestratorView(View):
    """What the orchestrator itself takes."""

    uptime_s: float
    memory_mb: float
    """Resident memory in MiB."""
    cpu_percent: float
    """Of one core."""
    open_files: int


class ActivationCacheView(View):
    """What jobs keep of activations for each other."""

    entries: int
    """One a hookpoint, and another for what is held out."""
    size_bytes: int
    limit_bytes: int
    """What was used longest ago goes beyond it; 0 where nothing is kept."""


class TraceView(View):
    """One figure over time; a moment at which it was not to be had is left out."""

    times: list[float]
    """Seconds since the epoch."""
    values: list[float]


class HistoryView(View):
    """The machine over time."""

    until: datetime
    step_s: float
    """Seconds between two samples, before thinning."""
    traces: dict[str, TraceView]
    """Figure -> its course; those of a GPU are named ``gpu/<uuid>/<figure>``."""


class SystemStatus(View):
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
    home: str | None
    """Where the orchestrator keeps everything; not told to a key that is limited to some jobs."""
    jobs: dict[JobStatus, int]
    """Those within the key's reach, by status."""
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
    activation_cache: ActivationCacheView | None = None
