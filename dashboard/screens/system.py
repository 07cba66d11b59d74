"""System: the machine, the engine, and what lies on its disk."""

from collections.abc import Mapping
from html import escape

import streamlit as st

from dashboard import connection, markup
from dashboard.quantities import ago, duration, mebibytes, size
from orchestrator.errors import OrchestratorError
from orchestrator.views import ArtifactView, Inventory, JobView, ModelView, SystemStatus

TICK_S = 3
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
    st.html(markup.section("Machine") + meters(system))
    st.html(markup.section("GPUs", str(len(system.gpus) or "")) + gpus(system))
    facts = [
        ("version", system.version),
        ("executor", system.executor),
        ("engine", system.engine),
        ("up for", duration(system.uptime_s)),
        ("home", system.home),
        *((f"jobs {status.value}", count) for status, count in system.jobs.items() if count),
    ]
    st.html(markup.section("Orchestrator") + markup.pairs(facts))


def meters(system: SystemStatus) -> str:
    cores = f"{system.cpus:g} cores for jobs"
    shown = [markup.meter("CPU", system.cpu_percent, 100, f"{system.cpu_percent:.0f} %", cores, alarming=False)]
    for name, used, total in (
        ("Memory", system.memory_used_mb, system.memory_total_mb),
        ("Swap", system.swap_used_mb, system.swap_total_mb),
    ):
        if total:
            shown.append(markup.meter(name, used, total, f"{mebibytes(used)} / {mebibytes(total)}"))
    shown.append(markup.disk_meter(system))
    return f'<div class="sf-meters">{"".join(shown)}</div>'


def gpus(system: SystemStatus) -> str:
    if not system.gpus:
        return markup.empty("No GPU: jobs run on the CPU", escape(system.gpu_error or "none was found"))
    rows = [
        [
            str(gpu.index),
            escape(gpu.name),
            f"{mebibytes(gpu.memory_used_mb)} / {mebibytes(gpu.memory_total_mb)}",
            "–" if gpu.utilization is None else f"{gpu.utilization * 100:.0f} %",
            "–" if gpu.temperature_c is None else f"{gpu.temperature_c:.0f} °C",
            "–" if gpu.power_w is None else f"{gpu.power_w:.0f} W",
            ", ".join(markup.job_link(job, "a job") for job in gpu.leased_by) or "free",
            str(gpu.foreign_processes),
        ]
        for gpu in system.gpus
    ]
    headers = ["#gpu", "name", "#memory", "#busy", "#temperature", "#power", "leased by", "#foreign processes"]
    return markup.table(headers, rows, label="GPUs")


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
inventory()
