"""Overview: what runs, what waits and why, what ran."""

from dataclasses import dataclass

import streamlit as st

from dashboard import connection, markup
from dashboard.quantities import mebibytes
from orchestrator.domain import ACTIVE, JobStatus
from orchestrator.errors import OrchestratorError
from orchestrator.views import GpuView, JobPage, JobView, SystemStatus

TICK_S = 2
MOST_SHOWN = 50
PAGE_ROWS = 20

FIRST_STEPS = (
    "Start with {submit}, or from a shell:<br><code>saeforge submit train-sae --help</code> &nbsp;·&nbsp; "
    "<code>make demo</code> trains a small one in minutes."
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the page shows, as of one tick."""

    system: SystemStatus
    active: list[JobView]
    queued: list[JobView]
    paused: list[JobView]


def look() -> Snapshot:
    client = connection.client()
    system = client.system_status()

    def having(*statuses: JobStatus) -> list[JobView]:
        found: list[JobView] = []
        for status in statuses:
            if system.jobs.get(status):
                found += client.jobs(status=status.value, limit=MOST_SHOWN).items
        return found

    return Snapshot(
        system,
        active=having(*sorted(ACTIVE)),
        queued=sorted(having(JobStatus.QUEUED), key=lambda job: job.wait.position if job.wait else 0),
        paused=having(JobStatus.PAUSED),
    )


@st.fragment(run_every=TICK_S)
def now() -> None:
    """Machine, running jobs and queue; keeps the last sight of them while the orchestrator is away."""
    try:
        snapshot: Snapshot | None = look()
        connection.seen()
        st.session_state["overview"] = snapshot
    except OrchestratorError as error:
        connection.offline_banner(error)
        snapshot = st.session_state.get("overview")
    if snapshot is None:
        return
    st.html(machine(snapshot.system))
    if problem := snapshot.system.engine_error:
        st.html(markup.banner("The container engine does not answer", problem))
    for title, jobs in (("Running", snapshot.active), ("Paused", snapshot.paused)):
        if jobs:
            st.html(markup.section(title, str(len(jobs))) + markup.cards(jobs))
    if snapshot.queued:
        st.html(markup.section("Queue", str(len(snapshot.queued))) + markup.queue_table(snapshot.queued))
    if any(snapshot.system.jobs.values()) and not (snapshot.active or snapshot.queued or snapshot.paused):
        st.html(markup.empty("Nothing runs and nothing waits", first_steps()))


def first_steps() -> str:
    return FIRST_STEPS.format(submit=markup.page_link("submit", "submitting a job"))


def machine(system: SystemStatus) -> str:
    """GPUs, or that there are none, beside CPU, memory and disk."""
    gpus = [gpu_meter(gpu) for gpu in system.gpus]
    if not gpus:
        gpus = [markup.no_gpu(system.gpu_error or "none was found")]
    cores = f"{system.cpus:g} cores for jobs"
    of_memory = f"of {mebibytes(system.memory_total_mb)}"
    rest = [
        markup.meter("CPU", system.cpu_percent, 100, f"{system.cpu_percent:.0f} %", cores, alarming=False),
        markup.meter(
            "Memory", system.memory_used_mb, system.memory_total_mb, mebibytes(system.memory_used_mb), of_memory
        ),
        markup.disk_meter(system),
    ]
    return f'<div class="sf-meters">{"".join(gpus + rest)}</div>'


def gpu_meter(gpu: GpuView) -> str:
    leased = gpu.leased_by or gpu.leased_by_others
    holder = "leased" if leased else f"{gpu.foreign_processes} foreign" if gpu.foreign_processes else "free"
    facts = [gpu.name, holder]
    if gpu.utilization is not None:
        facts.append(f"{gpu.utilization * 100:.0f} % busy")
    if gpu.temperature_c is not None:
        facts.append(f"{gpu.temperature_c:.0f} °C")
    if gpu.power_w is not None:
        facts.append(f"{gpu.power_w:.0f} W")
    text = f"{mebibytes(gpu.memory_used_mb)} / {mebibytes(gpu.memory_total_mb)}"
    name = f"GPU {gpu.index}"
    return markup.meter(name, gpu.memory_used_mb, gpu.memory_total_mb, text, " · ".join(facts), alarming=False)


def matching(status: str | None, query: str, offset: int) -> JobPage | None:
    """One page of the jobs, newest first; what was seen last while the orchestrator is away."""
    try:
        found = connection.client().jobs(status=status, q=query or None, limit=PAGE_ROWS, offset=offset)
    except OrchestratorError:
        known: JobPage | None = st.session_state.get("runs")  # the banner above says what is wrong
        return known
    st.session_state["runs"] = found
    return found


@st.fragment(run_every=TICK_S)
def runs(status: str | None, query: str, offset: int) -> None:
    found = matching(status, query, offset)
    if found is None:
        return
    if found.items:
        last = offset + len(found.items)
        st.html(markup.recent_table(found.items))
        st.html(f'<div class="sf-note">{offset + 1}–{last} of {found.total}</div>')
    elif status or query or offset:
        st.html(markup.empty("No job matches", "Change the filter above to see others."))
    else:
        st.html(markup.empty("No job yet", first_steps()))


def page() -> None:
    st.html('<h1 class="sf-title">Overview</h1>')
    now()
    with st.container(horizontal=True, vertical_alignment="bottom", key="filters"):
        st.html(markup.section("Runs"), width="stretch")
        query = st.text_input(
            "Search runs", key="q", placeholder="Search runs", label_visibility="collapsed", width=220,
            bind="query-params",
        )  # fmt: skip
        status = st.selectbox(
            "Status", [status.value for status in JobStatus], index=None, key="status", placeholder="Any status",
            label_visibility="collapsed", width=160, bind="query-params",
        )  # fmt: skip
        offset = turned(status, query)
    runs(status, query, offset)


def turned(status: str | None, query: str) -> int:
    """Buttons to older and newer jobs, where there are more than fit; the offset to show."""
    if (status, query) != st.session_state.get("filtered"):
        st.session_state["filtered"] = (status, query)
        st.session_state["offset"] = 0
    offset: int = st.session_state["offset"]
    found = matching(status, query, offset)
    if found is None or (found.total <= PAGE_ROWS and not offset):
        return offset
    newer = st.button("Newer", disabled=not offset, key="newer")
    older = st.button("Older", disabled=offset + PAGE_ROWS >= found.total, key="older")
    if newer or older:
        st.session_state["offset"] = max(0, offset + (PAGE_ROWS if older else -PAGE_ROWS))
        st.rerun()
    return offset


page()
