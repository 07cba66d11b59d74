"""System: the machine, the engine, and what lies on its disk."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from html import escape

import streamlit as st

from dashboard import connection, markup
from dashboard.quantities import ago, duration, mebibytes, size
from dashboard.sparkline import BARS, sparkline
from orchestrator.errors import OrchestratorError
from orchestrator.views import ArtifactView, GpuView, HistoryView, Inventory, JobView, ModelView, SystemStatus

TICK_S = 3
HISTORY_TICK_S = 10
HISTORY_S = 3600.0
INVENTORY_TICK_S = 30
MOST_JOBS_NAMED = 500
"""Newest training jobs whose names are looked up for the list of SAEs; older ones show by their id."""


@st.fragment(run_every=TICK_S)
def machine() -> None:
    try:
        system: SystemStatus | None = connection.client().system_status()
        connection.seen()
        st.session_state["system"] = system
    except OrchestratorError as error:
        connection.offline_banner(error)
        system = st.session_state.get("system")
    if system is None:
        return
    if system.engine_error:
        st.html(markup.banner("The container engine does not answer", system.engine_error))
    if system.disk_error:
        st.html(markup.banner("Nothing new starts for want of disk space", system.disk_error))
    for gpu in system.gpus:
        if gpu.lost or gpu.problems:
            title = f"GPU {number(gpu)} is lost" if gpu.lost else f"GPU {number(gpu)} is not well"
            st.html(markup.banner(title, "; ".join(gpu.problems), kind="error" if gpu.lost else "warning"))
    st.html(markup.section("Machine") + meters(system))
    st.html(markup.section("GPUs", str(len(system.gpus) or "")) + gpus(system))
    if any(gpu.processes for gpu in system.gpus):
        st.html(markup.section("On the GPUs") + processes(system))
    columns = (("Queue", queue(system)), ("Engine", engine(system)), ("Orchestrator", itself(system)))
    blocks = "".join(f"<div>{markup.section(title)}{markup.pairs(facts)}</div>" for title, facts in columns)
    st.html(f'<div class="sf-columns">{blocks}</div>')


@st.fragment(run_every=HISTORY_TICK_S)
def history() -> None:
    """The last hour; keeps the last sight of it while the orchestrator is away."""
    with suppress(OrchestratorError):
        st.session_state["history"] = connection.client().system_history(since_s=HISTORY_S, max_points=4 * BARS)
    seen: HistoryView | None = st.session_state.get("history")
    system: SystemStatus | None = st.session_state.get("system")
    if seen is not None and system is not None and seen.traces:
        st.html(markup.section("The last hour") + courses(seen, system))


def courses(seen: HistoryView, system: SystemStatus) -> str:
    end = seen.until.timestamp()
    # It fills from the left until there is an hour of it.
    first = min(trace.times[0] for trace in seen.traces.values())
    begin = max(end - HISTORY_S, min(first, end - 600))

    def course(label: str, name: str, told: Callable[[float], str], most: float | None = None) -> str:
        return sparkline(label, seen.traces.get(name), begin=begin, end=end, most=most, told=told)

    shown = [
        course("CPU", "cpu_percent", percent, 100),
        course("Memory", "memory_used_mb", mebibytes, system.memory_total_mb),
        course("Disk free", "disk_free_mb", mebibytes, system.disk_total_mb),
        course("Attempts running", "attempts_running", count),
        course("Jobs queued", "jobs_queued", count),
    ]
    for gpu in system.gpus:
        own, name = f"gpu/{gpu.uuid}/", f"GPU {number(gpu)}"
        shown += [
            course(f"{name} busy", f"{own}utilization", lambda share: percent(100 * share), 1),
            course(f"{name} memory", f"{own}memory_used_mb", mebibytes, gpu.memory_total_mb),
            course(f"{name} temperature", f"{own}temperature_c", lambda value: f"{value:.0f} °C", 100),
            course(f"{name} power", f"{own}power_w", lambda value: f"{value:.0f} W", gpu.power_limit_w),
        ]
    return f'<div class="sf-sparks">{"".join(shown)}</div>'


def queue(system: SystemStatus) -> list[tuple[str, object]]:
    told = system.queue
    return [
        *((f"jobs {status.value}", number) for status, number in system.jobs.items() if number),
        *((f"waiting for {reason.replace('_', ' ')}", number) for reason, number in sorted(told.by_reason.items())),
        ("waiting longest", duration(told.oldest_age_s) if told.oldest_age_s is not None else None),
        ("begun in the last hour", told.begun_last_hour),
        ("ended in the last hour", told.ended_last_hour),
    ]


def engine(system: SystemStatus) -> list[tuple[str, object]]:
    health = system.engine_health
    latency_s = health.latency_s if health else None
    return [
        ("executor", system.executor),
        ("engine", system.engine),
        ("answered in", None if latency_s is None else f"{1000 * latency_s:.1f} ms"),
        ("NVIDIA driver", system.gpu_driver),
        *(health.facts.items() if health else ()),
    ]


def itself(system: SystemStatus) -> list[tuple[str, object]]:
    own = system.orchestrator
    taken: list[tuple[str, object]] = []
    if own is not None:
        taken = [
            ("memory", mebibytes(own.memory_mb)),
            ("CPU", f"{own.cpu_percent:.1f} % of a core"),
            ("open files", own.open_files),
        ]
    return [("version", system.version), ("up for", duration(system.uptime_s)), *taken, ("home", system.home)]


def percent(value: float) -> str:
    return f"{value:.0f} %"


def count(value: float) -> str:
    return f"{value:,.0f}"


def number(gpu: GpuView) -> str:
    return str(gpu.index) if gpu.instance is None else f"{gpu.index}:{gpu.instance}"


def meters(system: SystemStatus) -> str:
    cores = f"{system.cpus:g} cores for jobs"
    if system.load_average:
        cores = f"load {system.load_average[0]:.1f} · {cores}"
    shown = [
        markup.meter("CPU", system.cpu_percent, 100, percent(system.cpu_percent), cores, alarming=False)
        + core_bars(system.core_percent)
    ]
    for name, used, total in (
        ("Memory", system.memory_used_mb, system.memory_total_mb),
        ("Swap", system.swap_used_mb, system.swap_total_mb),
    ):
        if total:
            shown.append(markup.meter(name, used, total, f"{mebibytes(used)} / {mebibytes(total)}"))
    shown.append(markup.disk_meter(system))
    if (held := system.activation_cache) and held.limit_bytes:
        told = f"{size(held.size_bytes)} / {size(held.limit_bytes)}"
        entries = f"{count(held.entries)} entries"
        shown.append(markup.meter("Activation cache", held.size_bytes, held.limit_bytes, told, entries, alarming=False))
    if system.inodes_total:
        used = system.inodes_total - system.inodes_free
        free = f"{count(system.inodes_free)} free"
        shown.append(markup.meter("Files on disk", used, system.inodes_total, free))
    return f'<div class="sf-meters">{"".join(f"<div>{each}</div>" for each in shown)}</div>'


def core_bars(cores: Sequence[float]) -> str:
    """How busy each core is, side by side."""
    if len(cores) < 2:
        return ""
    bars = "".join(f'<i style="height:{max(3.0, min(100.0, busy)):.0f}%"></i>' for busy in cores)
    told = ", ".join(percent(busy) for busy in cores)
    return f'<div class="sf-cores" role="img" aria-label="Each core: {told}" title="{told}">{bars}</div>'


def gpus(system: SystemStatus) -> str:
    if not system.gpus:
        return markup.empty("No GPU: jobs run on the CPU", escape(system.gpu_error or "none was found"))
    rows = [
        [
            number(gpu),
            f"{escape(gpu.name)}{_state(gpu)}",
            f"{mebibytes(gpu.memory_used_mb)} / {mebibytes(gpu.memory_total_mb)}",
            "–" if gpu.utilization is None else percent(gpu.utilization * 100),
            "–" if gpu.temperature_c is None else f"{gpu.temperature_c:.0f} °C",
            _power(gpu),
            escape(", ".join(gpu.throttling)) or "–",
            _holders(gpu),
            str(gpu.foreign_processes),
        ]
        for gpu in system.gpus
    ]
    headers = ["#gpu", "name", "#memory", "#busy", "#temperature", "#power", "throttled by", "leased by",
               "#foreign processes"]  # fmt: skip
    return markup.table(headers, rows, label="GPUs")


def _holders(gpu: GpuView) -> str:
    others = [f"{gpu.leased_by_others} of others"] if gpu.leased_by_others else []
    return ", ".join([*(markup.job_link(job, "a job") for job in gpu.leased_by), *others]) or "free"


def _state(gpu: GpuView) -> str:
    return "<small>lost: figures as last seen</small>" if gpu.lost else ""


def _power(gpu: GpuView) -> str:
    if gpu.power_w is None:
        return "–"
    return f"{gpu.power_w:.0f} W" if gpu.power_limit_w is None else f"{gpu.power_w:.0f} / {gpu.power_limit_w:.0f} W"


def processes(system: SystemStatus) -> str:
    rows = [
        [
            number(gpu),
            str(process.pid),
            escape(process.name) or "–",
            "–" if process.memory_mb is None else mebibytes(process.memory_mb),
            "from outside" if process.job_id is None else markup.job_link(process.job_id, str(process.job_id)[:8]),
            "yes" if process.foreign else "",
        ]
        for gpu in system.gpus
        for process in gpu.processes
    ]
    headers = ["#gpu", "#pid", "program", "#GPU memory", "job", "foreign"]
    return markup.table(headers, rows, label="Processes on the GPUs")


@st.fragment(run_every=INVENTORY_TICK_S)
def inventory() -> None:
    try:
        client = connection.client()
        found: Inventory = client.inventory()
        trained = client.jobs(type="train_sae", limit=MOST_JOBS_NAMED).items if found.saes else []
    except OrchestratorError:
        return  # the banner above says what is wrong
    st.html(markup.section("Models", str(len(found.models) or "")) + listing(found.models, "model", "models"))
    st.html(markup.section("Datasets", str(len(found.datasets) or "")) + listing(found.datasets, "dataset", "datasets"))
    if found.saes:
        jobs = {str(job.id): job for job in trained}
        rows = [
            [*origin(sae, jobs), escape(sae.path), str(sae.attempt), size(sae.size_bytes), ago(sae.created_at)]
            for sae in found.saes
        ]
        headers = ["job", "trained on", "file", "#attempt", "#size", "saved"]
        st.html(markup.section("SAEs", str(len(rows))) + markup.table(headers, rows, label="SAEs"))


def origin(sae: ArtifactView, jobs: Mapping[str, JobView]) -> list[str]:
    """The job that trained it, and its model and hookpoint; its address begins ``/api/jobs/<id>/``."""
    job_id = sae.url.strip("/").split("/")[2]
    job = jobs.get(job_id)
    if job is None:
        return [markup.job_link(job_id, job_id[: markup.SHORT_ID]), "–"]
    hookpoint = job.params.get("hookpoint") or ""
    return [markup.named(job), f"{escape(str(job.params['model']))}<small>{escape(str(hookpoint))}</small>"]


def listing(items: list[ModelView], kind: str, folder: str) -> str:
    if not items:
        return markup.empty(f"No {kind} yet", f"Put one into <code>&lt;home&gt;/{folder}</code>; it shows up here.")
    rows = [
        [
            f"{escape(item.name)}<small>{escape(item.path)}</small>",
            escape(", ".join(f"{name} {value}" for name, value in item.detail.items())),
            size(item.size_bytes),
            ago(item.modified_at),
        ]
        for item in items
    ]
    return markup.table([kind, "details", "#size", "changed"], rows, label=folder.capitalize())


st.html('<h1 class="sf-title">System</h1>')
machine()
history()
inventory()
