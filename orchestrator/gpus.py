"""GPUs: what is known of one at a moment."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A compute process on a GPU, whoever started it."""

    pid: int
    """As the machine itself counts processes."""
    name: str = ""
    """Of its program; empty when it cannot be told."""
    memory_mb: int | None = None
    """Of the GPU's memory, in MiB."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one instance of a partitioned one. Figures the driver does not give are empty."""

    uuid: str
    index: int
    """The driver's number of it; instances have that of the GPU they are part of."""
    name: str
    memory_total_mb: int
    memory_used_mb: int
    utilization: float | None = None
    """Share of time busy, 0 to 1."""
    temperature_c: float | None = None
    power_w: float | None = None
    processes: tuple[GpuProcess, ...] = ()
    power_limit_w: float | None = None
    throttling: tuple[str, ...] = ()
    """Why its clocks are lower than they could be, in words; none when nothing holds them back."""
    uncorrected_errors: int | None = None
    """Memory errors that ECC could not correct since the driver was loaded."""
    last_xid: int | None = None
    """The last error (Xid) the driver reported of it since the orchestrator started."""
    problems: tuple[str, ...] = ()
    """What is wrong with it, in words."""
    lost: bool = False
    """It was there and does not answer any more; its figures are the last ones seen. It is not handed out."""
    instance: int | None = None
    """Number of the instance (MIG); empty for a whole GPU."""


@dataclass(frozen=True, slots=True)
class GpuReport:
    """The GPUs, or why they cannot be seen."""

    gpus: tuple[Gpu, ...] = ()
    """As last seen."""
    error: str | None = None
    """Set when there is no driver, which means no GPUs and is no failure, or when one that answered has stopped to."""
    driver: str | None = None
    """The driver's version."""
    unread: tuple[str, ...] = ()
    """What cannot be said of GPUs that are listed and never answered."""
