"""What Prometheus is told: the state of the whole, read at every scrape. Pure; the names are an interface."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from orchestrator.domain import EndReason, JobStatus, WaitReason
from orchestrator.gpus import Gpu
from orchestrator.monitor import Sight
from orchestrator.store.census import Tallies

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Scraped:
    """All that is read for one scrape."""

    version: str
    executor: str
    sight: Sight
    tallies: Tallies
    waiting: Mapping[str, int]
    """Reason -> queued jobs that wait for it."""
    leases: Mapping[str, int]
    """GPU UUID -> how many attempts hold it."""
    engine_up: bool
    engine_latency_s: float | None
    disk_halted: bool
    """Whether nothing new starts for want of disk space."""
    live_log_bytes: int
    """Size of the logs of all attempts that run."""
    started_at: float
    """When the orchestrator started, in seconds since the epoch."""


def families(scraped: Scraped) -> Iterator[Metric]:
    """Every metric that is read rather than counted as it happens."""
    return chain(_jobs(scraped), _counts(scraped), _engine(scraped), _gpus(scraped), _host(scraped))


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"saeforge_{name}", meaning, value=value)


def _by(name: str, meaning: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"saeforge_{name}", meaning, labels=[label])
    for which, value in values.items():
        family.add_metric([which], value)
    return family


def _counter(name: str, meaning: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"saeforge_{name}", meaning, labels=[label])
    for which, value in values.items():
        family.add_metric([which], value)
    return family


def _jobs(scraped: Scraped) -> Iterator[Metric]:
    census, at = scraped.sight.census, scraped.sight.at
    by_status = {status.value: float(census.by_status.get(status, 0)) for status in JobStatus}
    yield _by("jobs", "Jobs there are, by status.", "status", by_status)
    waiting = dict.fromkeys(get_args(WaitReason), 0) | dict(scraped.waiting)
    yield _by("queue_jobs", "Queued jobs by the reason why they wait, as of the last plan.", "reason", waiting)
    oldest = census.oldest_queued_at
    age_s = 0.0 if oldest is None else max(0.0, at - oldest)
    yield _gauge("queue_oldest_age_seconds", "How long the job that was submitted first has waited.", age_s)
    yield _gauge("attempts_running", "Attempts that run.", census.running_attempts)
    yield _gauge("live_log_bytes", "Size of the logs of all attempts that run.", scraped.live_log_bytes)


def _counts(scraped: Scraped) -> Iterator[Metric]:
    """Kept in the database: they go on counting across restarts of the orchestrator."""
    told = scraped.tallies
    # Every reason from the start, so that the first failure of its kind shows as a rise from zero.
    ended = dict.fromkeys((reason.value for reason in EndReason), 0) | dict(told.attempts_ended)
    yield _counter("jobs_submitted", "Jobs submitted, by type.", "type", told.jobs_submitted)
    yield _counter("jobs_ended", "Jobs that reached a terminal status, by that.", "status", told.jobs_ended)
    yield _counter("attempts_begun", "Attempts begun, by executor.", "executor", told.attempts_begun)
    yield _counter("attempts_ended", "Attempts ended, by reason.", "reason", ended)
    yield HistogramMetricFamily(
        "saeforge_attempt_duration_seconds",
        "How long attempts ran.",
        buckets=[("+Inf" if le == float("inf") else f"{le:g}", count) for le, count in told.attempts_by_duration],
        sum_value=told.attempt_seconds,
    )
    yield CounterMetricFamily("saeforge_events_stored", "Events stored, of workers and our own.", value=told.events)


def _engine(scraped: Scraped) -> Iterator[Metric]:
    yield _by("engine_up", "Whether the container engine answers.", "executor", {scraped.executor: scraped.engine_up})
    if scraped.engine_latency_s is not None:
        yield _gauge("engine_latency_seconds", "How long the engine's last answer took.", scraped.engine_latency_s)


def _gpus(scraped: Scraped) -> Iterator[Metric]:
    report = scraped.sight.gpus
    yield _gauge("gpu_driver_up", "Whether the NVIDIA driver answers.", report.error is None)

    def family(name: str, meaning: str, values: Iterable[tuple[Gpu, float | None]]) -> GaugeMetricFamily:
        made = GaugeMetricFamily(f"saeforge_gpu_{name}", meaning, labels=["gpu", "index", "name"])
        for gpu, value in values:
            if value is not None:
                made.add_metric([gpu.uuid, str(gpu.index), gpu.name], value)
        return made

    gpus = report.gpus
    # What was seen last of a lost GPU would pass for the present.
    here = [gpu for gpu in gpus if not gpu.lost]
    occupants = scraped.sight.occupants
    yield family("lost", "Whether the GPU was there and does not answer any more.", ((g, g.lost) for g in gpus))
    yield family("leases", "Attempts that hold the GPU.", ((g, scraped.leases.get(g.uuid, 0)) for g in gpus))
    yield family("memory_total_bytes", "Memory of the GPU.", ((g, g.memory_total_mb * _MIB) for g in here))
    yield family("memory_used_bytes", "Memory in use, by whomever.", ((g, g.memory_used_mb * _MIB) for g in here))
    yield family("utilization_ratio", "Share of time the GPU was busy.", ((g, g.utilization) for g in here))
    yield family("temperature_celsius", "Temperature of the GPU.", ((g, g.temperature_c) for g in here))
    yield family("power_watts", "Power the GPU draws.", ((g, g.power_w) for g in here))
    yield family("power_limit_watts", "Power the GPU may draw.", ((g, g.power_limit_w) for g in here))
    yield family("throttled", "Whether something holds its clocks back.", ((g, bool(g.throttling)) for g in here))
    yield family("problems", "What is wrong with the GPU, counted.", ((g, len(g.problems)) for g in gpus))
    yield family("uncorrected_errors", "Memory errors since the driver was loaded that ECC could not correct.",
                 ((g, g.uncorrected_errors) for g in here))  # fmt: skip
    yield family("processes", "Compute processes on the GPU.", ((g, len(g.processes)) for g in here))
    yield family("foreign_processes", "Compute processes that have no business on the GPU.",
                 ((g, sum(each.foreign for each in occupants.get(g.uuid, ()))) for g in here))  # fmt: skip


def _host(scraped: Scraped) -> Iterator[Metric]:
    host = scraped.sight.host
    yield _gauge("host_cpu_utilization_ratio", "Share of time the machine's cores were busy.", host.cpu_percent / 100)
    yield _gauge("host_load1", "Tasks that run or want to, averaged over a minute.", host.load[0])
    yield _gauge("host_memory_total_bytes", "Memory of the machine.", host.memory_total)
    yield _gauge("host_memory_used_bytes", "Memory in use.", host.memory_used)
    yield _gauge("host_swap_total_bytes", "Swap of the machine.", host.swap_total)
    yield _gauge("host_swap_used_bytes", "Swap in use.", host.swap_used)
    yield _gauge("disk_total_bytes", "Size of the disk that holds the home.", host.disk_total)
    yield _gauge("disk_free_bytes", "What may still be written there.", host.disk_free)
    yield _gauge("disk_inodes_limit", "Files that disk can hold; 0 where it knows no limit.", host.inodes_total)
    yield _gauge("disk_inodes_free", "Files that can still be made there.", host.inodes_free)
    yield _gauge("disk_halted", "Whether nothing new starts for want of disk space.", scraped.disk_halted)
    yield _gauge("process_resident_memory_bytes", "Memory of the orchestrator's process.", host.own_rss)
    yield CounterMetricFamily(
        "saeforge_process_cpu_seconds", "Processor time of the orchestrator's process.", value=host.own_cpu_s
    )
    yield _gauge("process_open_fds", "Descriptors the orchestrator holds open.", host.own_files)
    yield _gauge("process_start_time_seconds", "When the orchestrator started.", scraped.started_at)
    yield _by("build_info", "The version that runs; always 1.", "version", {scraped.version: 1})
