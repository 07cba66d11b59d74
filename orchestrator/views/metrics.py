"""What a job measured and what it used, over steps and over time."""

from datetime import datetime

from orchestrator.views.base import View


class MetricPoint(View):
    step: int
    ts: datetime
    values: dict[str, float]
    """The series that have a point here; after thinning each series keeps points of its own."""


class SeriesStats(View):
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


class MetricSeries(View):
    items: list[MetricPoint]
    total: int
    """Points of the longest series in the asked range, before thinning."""
    series: list[MetricStats] = []
    after: int = 0
    """Id of an event up to which everything is in here: follow the job's events after it for what comes next."""


class ResourcePoint(View):
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


class ResourceHistory(View):
    items: list[ResourcePoint]
    total: int
    """Points of the longest series in the asked range, before thinning."""
    series: list[ResourceStats] = []
