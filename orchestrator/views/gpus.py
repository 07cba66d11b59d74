"""GPUs, and what runs on them."""

from uuid import UUID

from orchestrator.views.base import View


class GpuProcessView(View):
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


class GpuView(View):
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
    leased_by_others: int = 0
    """Jobs that hold it and are beyond the key's reach, which are only counted."""
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
    """With a key that is limited to some jobs, those of these jobs."""
