"""HTML of everything that is only looked at: badges, bars, tiles, cards, tables. Pure; all text is escaped here.

Status is always icon, word and colour together, so that none of the three has to be seen.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any
from uuid import UUID

from dashboard.quantities import ago, duration, measured, mebibytes, size
from orchestrator.domain import ACTIVE, TERMINAL, JobStatus
from orchestrator.errors import OrchestratorError
from orchestrator.views import EstimateView, JobView, SystemStatus
from orchestrator.views.estimates import PoolView

METRIC_NAMES = {
    "loss": "loss",
    "fvu": "FVU",
    "l0": "L0",
    "dead_share": "dead",
    "lr": "learning rate",
    "tokens_per_s": "tokens/s",
}
"""Metric -> what a person calls it; others show under their own name."""
METRIC_MEANINGS = {
    "loss": "What training minimises, of the newest batch that was reported",
    "fvu": "Fraction of variance unexplained: 0 reconstructs every activation, 1 is no better than their mean",
    "l0": "Latents that are active for a token, on average",
    "dead_share": "Share of latents that were not active for any of the last dead_after_tokens tokens",
    "tokens_per_s": "Tokens that training takes in per second, of late",
}


SHORT_ID = 8
"""Characters of a job's id that tell it from others of the same name."""
MOST_REASON = 160
"""Most characters of a failure's message in a table."""


def badge(status: JobStatus) -> str:
    """The icon is drawn by style.css: Streamlit lets no SVG through."""
    return f'<span class="sf-badge sf-{status.value}"><i aria-hidden="true"></i>{status.value}</span>'


def job_link(job_id: UUID | str, text: str) -> str:
    """A permalink that is followed without a reload when the links component is there."""
    return f'<a class="sf-link" href="job?job={job_id}" data-page="job" data-job="{job_id}">{escape(text)}</a>'


def named(job: JobView) -> str:
    """A job in a table: its name, what tells it from others of that name, and why it failed."""
    message = job.failure.message.strip() if job.failure else ""
    why = f"<small>{escape(message.splitlines()[0][:MOST_REASON])}</small>" if message else ""
    return f"{job_link(job.id, job.name)}<small>{str(job.id)[:SHORT_ID]}</small>{why}"


def page_link(page: str, text: str) -> str:
    href = "./" if page == "overview" else escape(page)
    return f'<a class="sf-link" href="{href}" data-page="{escape(page)}">{escape(text)}</a>'


def explained(error: OrchestratorError) -> str:
    """Message and remedy as sentences."""
    parts = [part for part in (error.message, error.suggestion) if part]
    return " ".join(f"{part[0].upper()}{part[1:].rstrip('.')}." for part in parts)


def banner(title: str, text: str, detail: str = "", *, kind: str = "warning") -> str:
    more = f'<div class="sf-detail">{escape(detail)}</div>' if detail else ""
    role = "alert" if kind == "error" else "status"
    return f'<div class="sf-banner sf-{kind}" role="{role}"><b>{escape(title)}.</b> {escape(text)}{more}</div>'


def empty(title: str, body: str) -> str:
    """What to do where there is nothing yet. ``body`` is HTML."""
    return f'<div class="sf-empty"><b>{escape(title)}</b><p>{body}</p></div>'


def section(title: str, aside: str = "") -> str:
    return f'<h2 class="sf-section">{escape(title)}<span>{escape(aside)}</span></h2>'


def field_error(message: str, suggestion: str | None = None) -> str:
    advice = f" <span>{escape(suggestion)}</span>" if suggestion else ""
    return f'<div class="sf-field-error" role="alert">{escape(message)}{advice}</div>'


def failure_box(job: JobView) -> str:
    """Why a job failed and what to do about it."""
    failure = job.failure
    if failure is None:
        return ""
    where = f'<div class="sf-detail">Parameter: <code>{escape(failure.field)}</code></div>' if failure.field else ""
    advice = f'<p class="sf-advice"><b>What to do</b> {escape(failure.suggestion)}</p>' if failure.suggestion else ""
    reason = failure.reason.value.replace("_", " ")
    is_paused = job.status is JobStatus.PAUSED
    onward = "<p>Its state is kept: change what has to be, then resume it.</p>" if is_paused else ""
    return (
        f'<div class="sf-banner sf-error" role="alert"><b>{"Paused, as it failed" if is_paused else "Failed"}: '
        f"{escape(reason)}</b><p>{escape(failure.message)}</p>{where}{advice}{onward}</div>"
    )


def share_done(progress: Mapping[str, Any] | None) -> float | None:
    """How much of the current phase is done, 0 to 1."""
    if not progress or not progress.get("total"):
        return None
    return min(1.0, float(progress["done"]) / float(progress["total"]))


def progress_bar(job: JobView) -> str:
    """Phase, units, rate and ETA over a bar; also while there is nothing to measure yet."""
    progress = job.progress or {}
    share = 1.0 if job.status is JobStatus.COMPLETED else share_done(progress)
    done = ""
    if progress.get("total"):
        done = f"{progress['done']:,} / {progress['total']:,} {progress.get('unit', '')}"
    rate, eta = progress.get("rate_per_s"), progress.get("eta_s")
    facts = [done]
    if job.status in ACTIVE:
        facts += [
            f"{measured('_per_s', rate)} {progress.get('unit', '')}/s" if rate else "",
            f"ETA {duration(eta)}" if eta is not None else "",
        ]
    aside = " · ".join(escape(fact) for fact in facts if fact)
    percent = "" if share is None else f"{share * 100:.0f} %"
    value = "" if share is None else f' aria-valuenow="{share * 100:.0f}"'
    idle = " sf-indeterminate" if share is None and job.status in ACTIVE else ""
    return (
        f'<div class="sf-progress sf-{job.status.value}"><div class="sf-progress-text">'
        f"<span>{escape(phase_of(job))}</span><span>{aside}</span><b>{percent}</b></div>"
        f'<div class="sf-track{idle}" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100"'
        f'{value}><div style="width:{(share or 0) * 100:.2f}%"></div></div></div>'
    )


def phase_of(job: JobView) -> str:
    """What the job is doing, in a few words."""
    if job.status is JobStatus.QUEUED and job.wait:
        return f"waiting: {job.wait.detail or job.wait.reason.replace('_', ' ')}"
    if job.status in TERMINAL or job.status is JobStatus.PAUSED:
        return job.status.value
    return job.phase or job.status.value


def tile(label: str, value: str, hint: str = "", meaning: str = "") -> str:
    """A figure; ``meaning`` shows where the pointer rests on it."""
    note = f"<small>{escape(hint)}</small>" if hint else ""
    title = f' title="{escape(meaning)}"' if meaning else ""
    return f'<div class="sf-tile"{title}><span>{escape(label)}</span><b>{escape(value)}</b>{note}</div>'


def tiles(items: Iterable[str]) -> str:
    return f'<div class="sf-tiles">{"".join(items)}</div>'


def metric_tiles(job: JobView) -> str:
    """Loss, FVU, L0, dead share, throughput and time: what decides whether to let a run go on."""
    now, final = job.metrics or {}, job.results or {}
    shown = []
    for name in ("loss", "fvu", "l0", "dead_share", "tokens_per_s"):
        held_out = final.get(name)
        hint = f"held out {measured(name, held_out)}" if held_out is not None else ""
        value = now.get(name, held_out)
        shown.append(tile(METRIC_NAMES[name], measured(name, value), hint, METRIC_MEANINGS[name]))
    step = now.get("step")
    shown.append(tile("step", "–" if step is None else f"{int(step):,}"))
    return tiles([*shown, tile("elapsed", elapsed(job))])


def elapsed(job: JobView) -> str:
    if job.started_at is None:
        return "–"
    if job.completed_at is not None:
        return duration((job.completed_at - job.started_at).total_seconds())
    return ago(job.started_at).removesuffix(" ago") if job.status in ACTIVE else "–"


def job_card(job: JobView) -> str:
    """A running job at a glance."""
    values = job.metrics or {}
    facts = "".join(
        f"<span>{METRIC_NAMES[name]} <b>{escape(measured(name, values[name]))}</b></span>"
        for name in ("loss", "fvu", "l0", "dead_share", "tokens_per_s")
        if name in values
    )
    return (
        f'<article class="sf-card"><header>{job_link(job.id, job.name)}{badge(job.status)}</header>'
        f"{progress_bar(job)}<footer>{facts or f'<span>{escape(job.type)} · {escape(job.owner)}</span>'}</footer>"
        "</article>"
    )


def cards(jobs: Iterable[JobView]) -> str:
    return f'<div class="sf-cards">{"".join(job_card(job) for job in jobs)}</div>'


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, label: str) -> str:
    """A table; cells are HTML. Columns whose header starts with "#" are numbers, set to the right."""
    numeric = [header.startswith("#") for header in headers]
    kinds = [' class="sf-number"' if number else "" for number in numeric]
    head = "".join(
        f'<th scope="col"{kind}>{escape(header.lstrip("#"))}</th>' for header, kind in zip(headers, kinds, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{cell}</td>' for cell, kind in zip(row, kinds, strict=True))}</tr>" for row in rows
    )
    return (
        f'<div class="sf-table" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def queue_table(jobs: Iterable[JobView]) -> str:
    def row(job: JobView) -> list[str]:
        wait = job.wait
        reason = f"{escape(wait.reason.replace('_', ' '))}<small>{escape(wait.detail)}</small>" if wait else "–"
        return [
            str(wait.position) if wait else "–",
            named(job),
            reason,
            duration(wait.eta_s) if wait else "–",
            str(job.priority),
            escape(job.owner),
            ago(job.created_at),
        ]

    headers = ["place", "job", "why it waits", "may start in", "#priority", "owner", "queued"]
    return table(headers, map(row, jobs), label="Queue")


def recent_table(jobs: Iterable[JobView]) -> str:
    def row(job: JobView) -> list[str]:
        figures = job.results or job.metrics or {}
        return [
            badge(job.status),
            named(job),
            escape(job.type),
            escape(measured("fvu", figures.get("fvu"))),
            escape(measured("l0", figures.get("l0"))),
            elapsed(job),
            escape(job.owner),
            ago(job.created_at),
        ]

    headers = ["status", "job", "type", "#FVU", "#L0", "#ran for", "owner", "submitted"]
    return table(headers, map(row, jobs), label="Jobs")


def meter(label: str, value: float, maximum: float, text: str, aside: str = "", *, alarming: bool = True) -> str:
    """How full something is. Where that is alarming it turns orange above 85 % and red above 95 %."""
    share = 0.0 if maximum <= 0 else min(1.0, max(0.0, value / maximum))
    level = "fine" if not alarming or share <= 0.85 else "high" if share <= 0.95 else "full"
    return (
        f'<div class="sf-meter"><div><span>{escape(label)}</span><span>{escape(aside)}</span>'
        f"<b>{escape(text)}</b></div>"
        f'<div class="sf-track sf-{level}" role="meter" aria-label="{escape(label)}" aria-valuemin="0"'
        f' aria-valuemax="100" aria-valuenow="{share * 100:.0f}"><div style="width:{share * 100:.1f}%"></div>'
        "</div></div>"
    )


def disk_meter(system: SystemStatus) -> str:
    """How full the disk is, told by what is left."""
    used_mb = system.disk_total_mb - system.disk_free_mb
    total = f"of {mebibytes(system.disk_total_mb)}"
    return meter("Disk", used_mb, system.disk_total_mb, f"{mebibytes(system.disk_free_mb)} free", total)


POOL_NAMES = {"gpu": "GPU memory", "host": "memory", "disk": "disk"}


def estimate(found: EstimateView) -> str:
    """What a job would take: memory, disk, time and cost, and what to lower where there is too little."""
    rows = [
        (
            POOL_NAMES[pool.pool],
            f"{size(pool.total_bytes)} of {size(pool.limit_bytes or 0)}",
            escape(", ".join(f"{part.name} {size(part.size_bytes)}" for part in pool.components if part.size_bytes)),
        )
        for pool in found.pools
    ]
    known = found.measured_jobs
    rows.append(("time", duration(found.seconds), f"from {known} earlier jobs" if known else "a rough guess"))
    if found.cost is not None:
        rows.append(("cost", f"{found.cost:.2f}", f"{found.gpu_hours:.2f} GPU hours"))
    short = [
        banner(f"{POOL_NAMES[pool.pool]} does not suffice", _advised(pool), kind="error")
        for pool in found.pools
        if not pool.fits
    ]
    notes = [banner("Note", warning) for warning in found.warnings]
    saes = f"{found.saes} SAEs, " if found.saes > 1 else ""
    title = section("Estimate", f"{saes}{found.d_sae:,} latents on width {found.d_in:,}, on {found.device}")
    return title + "".join([*short, *notes]) + table(("", "needed", "made up of"), rows, label="Estimate")


def _advised(pool: PoolView) -> str:
    changes = (f"{item.field} to {item.value} (saves {size(item.saves_bytes)})" for item in pool.advice)
    return (
        f"Set {', or '.join(changes)}." if pool.advice else "No single parameter brings it down enough: lower several."
    )


def pairs(items: Iterable[tuple[str, Any]]) -> str:
    """Name and value, one a line. Values are escaped."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(plain(value))}</dd></div>" for name, value in items)
    return f'<dl class="sf-pairs">{rows}</dl>'


def plain(value: object) -> str:
    """A parameter's value in words."""
    match value:
        case None | "":
            return "–"
        case bool():
            return "yes" if value else "no"
        case list():
            return " ".join(str(item) for item in value)
        case dict():
            return ", ".join(f"{name}={item}" for name, item in value.items()) or "–"
        case _:
            return str(value)


def health(state: str, *details: str) -> str:
    """The orchestrator's state in the sidebar, each detail on a line of its own."""
    words = {"ok": "orchestrator ready", "degraded": "orchestrator degraded", "offline": "orchestrator offline"}
    return (
        f'<div class="sf-health sf-{escape(state)}" role="status"><b>{words.get(state, "orchestrator error")}</b>'
        f"{'<br>'.join(map(escape, details))}</div>"
    )


def no_gpu(why: str) -> str:
    """Stands where a GPU's meter would."""
    return (
        '<div class="sf-meter"><div><span>GPU</span><b>none: jobs run on the CPU</b></div>'
        f"<small>{escape(why)}</small></div>"
    )
