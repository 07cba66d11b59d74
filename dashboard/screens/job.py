"""Job: one run, watched and steered. ``?job=<id>`` is its permalink; without it, the newest job."""

from collections.abc import Callable
from html import escape
from io import BytesIO
from typing import Any

import streamlit as st

from dashboard import components, connection, markup
from dashboard.features import features
from dashboard.quantities import ago, clock, duration, measured, size, time_of_day
from dashboard.resource_charts import RESOURCE_POINTS, resource_charts
from dashboard.steering import change_parameters
from orchestrator.client import Client
from orchestrator.domain import ACTIVE, TERMINAL, JobStatus
from orchestrator.errors import InvalidInput, NotFound, OrchestratorError
from orchestrator.views import ArtifactView, AttemptView, EventView, JobDetail

TICK_S = 1
SLOW_TICK_S = 3
RESOURCE_TICK_S = 2
SIDE_HEIGHT_PX = 308
MOST_EVENTS_SHOWN = 200
EVENT_PAGES_PER_TICK = 20
QUIET_EVENTS = frozenset({"metrics", "progress"})
"""Event types that the curves and the bar show already."""
MOST_DOWNLOAD_BYTES = 2_000_000_000
"""A download passes through the dashboard's memory; larger files are named by their path instead."""

ACTIONS: dict[str, tuple[str, str, str]] = {
    "checkpoint": ("Checkpoint now", ":material/save:", "Write a checkpoint and go on"),
    "validate": ("Validate now", ":material/fact_check:", "Measure on the held-out tokens and go on"),
    "set_parameters": (
        "Change…",
        ":material/tune:",
        "Learning rate, coefficients and intervals, from the next step on",
    ),
    "pause": ("Pause", ":material/pause:", "Write a checkpoint and free the GPU; resume continues from it"),
    "resume": ("Resume", ":material/play_arrow:", "Queue it again; it continues from its last checkpoint"),
    "stop": ("Stop", ":material/stop:", "Write a final checkpoint and the artifacts so far, then end"),
    "cancel": ("Cancel", ":material/close:", "End it at once, without a checkpoint"),
    "restart": ("Restart", ":material/replay:", "A new job with the same parameters, from the newest checkpoint"),
    "purge": ("Purge", ":material/delete:", "Delete the job with its log, checkpoints and artifacts"),
}
"""Action -> label, icon, what it does; in the order of the buttons."""

CONFIRM = {
    "stop": "It writes a final checkpoint and the artifacts so far, and ends. Restart continues it as a new job.",
    "cancel": "It is killed at once. What it did since its last checkpoint is lost.",
    "purge": "Its log, checkpoints and artifacts are deleted from the disk. This cannot be undone.",
}
"""Actions asked about twice -> what they mean."""

USUAL = ("checkpoint", "pause", "stop", "cancel")
"""Buttons an unfinished job always has, so that they do not jump about."""


def act(action: str, job: JobDetail) -> None:
    """Carry out an action; its outcome shows as a notice on the next drawing of the page."""
    client = connection.client()
    calls: dict[str, Callable[[Any], JobDetail | None]] = {
        "checkpoint": client.checkpoint,
        "validate": client.validate,
        "pause": client.pause,
        "resume": client.resume,
        "stop": client.stop,
        "cancel": client.cancel,
        "restart": client.restart,
        "purge": client.purge,
    }
    label = ACTIONS[action][0]
    try:
        result = calls[action](job.id)
    except OrchestratorError as error:
        st.session_state["notice"] = f"{label}: {markup.explained(error)}"
        st.rerun()
    if action == "purge":
        st.session_state["notice"] = f"Purged {job.name}"
        st.switch_page("screens/overview.py")
    if action == "restart" and result is not None:
        st.session_state["notice"] = f"Restarted as {result.name}"
        st.switch_page("screens/job.py", query_params={"job": str(result.id)})
    st.session_state["notice"] = f"{label}: requested"
    st.rerun()


@st.dialog("Are you sure?", width="small")
def confirm(action: str, job: JobDetail) -> None:
    label = ACTIONS[action][0]
    st.markdown(f"**{label}** the job below?")
    st.code(job.name, language=None)
    st.markdown(CONFIRM[action])
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Keep it", key="confirm-no"):
            st.rerun()
        if st.button(f"{label} it", type="primary", key="confirm-yes"):
            act(action, job)


def identity(job: JobDetail, online: bool) -> None:
    """Name, badge and actions; stays at the top while the page scrolls."""
    origin = markup.job_link(job.restarted_from, str(job.restarted_from)[:8]) if job.restarted_from else ""
    facts = [
        f"<code>{job.id}</code>",
        escape(job.type),
        f"owner {escape(job.owner)}",
        f"priority {job.priority}" if job.priority else "",
        f"submitted {clock(job.created_at)}",
        f"restarted from {origin}" if origin else "",
        " ".join(f"#{escape(tag)}" for tag in job.tags),
    ]
    spans = "".join(f"<span>{fact}</span>" for fact in facts if fact)
    with st.container(key="identity"):
        left, right = st.columns([5, 6], vertical_alignment="center")
        left.html(
            f'<div class="sf-identity"><h1>{escape(job.name)}</h1>'
            f'<span role="status" aria-live="polite">{markup.badge(job.status)}</span>'
            f'<div class="sf-facts">{spans}</div></div>'
        )
        with right.container(horizontal=True, horizontal_alignment="right", gap="xsmall"):
            actions(job, online)


def actions(job: JobDetail, online: bool) -> None:
    available = set(job.available_actions)
    for action, (label, icon, meaning) in ACTIONS.items():
        if action not in available and not (action in USUAL and job.status not in TERMINAL):
            continue
        allowed = online and action in available
        if st.button(label, key=f"do-{action}", icon=icon, help=meaning, disabled=not allowed):
            if action == "set_parameters":
                change_parameters(job)
            elif action in CONFIRM:
                confirm(action, job)
            else:
                act(action, job)
    if job.tensorboard_url:
        st.link_button("TensorBoard", job.tensorboard_url, icon=":material/monitoring:", help="Its runs, in a new tab")
    if st.button("Clone", key="clone", icon=":material/content_copy:", help="Submit the same with changes"):
        st.switch_page("screens/submit.py", query_params={"clone": str(job.id)})


def signature(job: JobDetail) -> tuple[Any, ...]:
    """What the parts of the page that do not tick depend on."""
    commands = tuple(command.status for command in job.commands)
    return job.status, job.intent, job.attempts, tuple(job.available_actions), commands, job.failure


def pulse(job: JobDetail, online: bool) -> None:
    """Progress and figures, once a second; draws the whole page anew when something else changed."""
    newest: JobDetail | None = None
    try:
        newest = connection.client().job(job.id)
        connection.seen()
    except NotFound:
        st.rerun()
    except OrchestratorError as error:
        connection.offline_banner(error)
    if (newest is not None) != online or (newest and signature(newest) != signature(job)):
        st.rerun()
    shown = newest or job
    if shown.failure:
        st.html(markup.failure_box(shown))
    st.html(markup.progress_bar(shown) + pending_commands(shown))
    if shown.type != "container":
        st.html(markup.metric_tiles(shown))


def pending_commands(job: JobDetail) -> str:
    """Commands the worker has not answered: requested is not yet applied."""
    waiting = [command for command in job.commands if command.status == "requested"]
    if not waiting or job.status not in ACTIVE:
        return ""
    words = ", ".join(f"{command.type.replace('_', ' ')} ({ago(command.requested_at)})" for command in waiting)
    return f'<div class="sf-note" role="status">Requested, not yet applied: {escape(words)}</div>'


def parameters(job: JobDetail) -> str:
    params = {name: value for name, value in job.params.items() if name != "type"}
    resources = {name: value for name, value in job.resources.model_dump().items() if value is not None}
    board = job.tensorboard_logdir and f"tensorboard --logdir {job.tensorboard_logdir}"
    places = [("log", job.log_path), ("artifacts", job.result_path), ("TensorBoard", board)]
    listed = (
        markup.pairs(params.items())
        + markup.section("Resources")
        + markup.pairs(resources.items())
        + markup.section("On the orchestrator's disk")
        + markup.pairs((name, path) for name, path in places if path)
    )
    return f'<div role="region" tabindex="0" aria-label="Parameters">{listed}</div>'


def attempts(job: JobDetail) -> str:
    if not job.attempt_list:
        return markup.empty("Not started yet", "Every execution of the job is listed here.")

    def row(attempt: AttemptView) -> list[str]:
        ended = attempt.end_reason.value.replace("_", " ") if attempt.end_reason else "running"
        ran_s = (
            (attempt.ended_at - attempt.started_at).total_seconds() if attempt.ended_at and attempt.started_at else None
        )
        return [
            str(attempt.number),
            f"{escape(ended)}<small>{escape(attempt.detail or '')}</small>",
            "–" if attempt.exit_code is None else str(attempt.exit_code),
            time_of_day(attempt.started_at),
            duration(ran_s),
            escape(f"{attempt.executor} {(attempt.handle or '')[:12]}"),
            escape(", ".join(attempt.gpus)) or "none",
        ]

    headers = ["#no.", "ended", "#exit", "started", "#ran for", "where", "GPUs"]
    table = markup.table(headers, map(row, reversed(job.attempt_list)), label="Attempts")
    if not job.gpu_hours:
        return table
    used = [("GPU hours", f"{job.gpu_hours:.2f}"), *([("cost", f"{job.cost:.2f}")] if job.cost is not None else [])]
    return table + markup.section("Used so far") + markup.pairs(used)


def checkpoints(client: Client, job: JobDetail) -> str:
    found = client.checkpoints(job.id)
    if not found:
        return markup.empty("No checkpoint yet", "Written by interval, on command, on pause, on stop and at the end.")
    rows = [
        [
            f"{escape(one.name)}{' ★ best' if one.best else ''}"
            f"<small>{escape(one.reason)}, attempt {one.attempt}</small>",
            measured("loss", one.loss),
            measured("loss", one.held_out_loss),
            size(one.size_bytes),
            f"<code>{escape(one.digest.removeprefix('sha256:')[:10])}</code>",
            ago(one.created_at),
        ]
        for one in sorted(found, key=lambda one: (one.attempt, one.step), reverse=True)
    ]
    return markup.table(
        ["checkpoint", "#loss", "#held-out loss", "#size", "sha256", "saved"], rows, label="Checkpoints"
    )


def commands(job: JobDetail) -> str:
    if not job.commands:
        return markup.empty("No command yet", "What is asked of the job and what became of it is listed here.")
    rows = [
        [
            escape(command.type.replace("_", " ")),
            time_of_day(command.requested_at),
            escape(command.status),
            time_of_day(command.settled_at),
            escape(command.detail),
        ]
        for command in reversed(job.commands)
    ]
    return markup.table(["command", "requested", "became", "when", "detail"], rows, label="Commands")


def events(client: Client, job: JobDetail) -> str:
    """The newest events but those that the curves show. Reads on from where the last tick ended."""
    slot = f"events-{job.id}"
    after, kept = st.session_state.get(slot, (0, []))
    for _ in range(EVENT_PAGES_PER_TICK):
        page = client.events(job.id, after=after)
        kept = [*kept, *(one for one in page.items if one.type not in QUIET_EVENTS)][-MOST_EVENTS_SHOWN:]
        after = max(after, page.next_after)
        if not page.items:
            break
    st.session_state[slot] = (after, kept)
    rows = [[time_of_day(one.ts), escape(one.type.replace("_", " ")), event_text(one)] for one in reversed(kept)]
    return markup.table(["UTC", "event", "details"], rows, label="Events")


def event_text(one: EventView) -> str:
    data = one.data
    match one.type:
        case "status_changed":
            text = f"{data.get('from') or 'new'} → {data.get('to')} {data.get('reason') or ''}"
        case "message":
            text = f"{data.get('level')}: {data.get('text')}"
        case _:
            told = {name: value for name, value in data.items() if value not in (None, "", [], {}) and name != "digest"}
            text = ", ".join(f"{name.replace('_', ' ')} {markup.plain(value)}" for name, value in told.items())
    return escape(text[:300])


def artifacts(client: Client, job: JobDetail) -> None:
    found = client.artifacts(job.id)
    if not found:
        st.html(markup.empty("No artifact yet", "The SAE, its configuration and its metrics appear at the end."))
    for one in sorted(found, key=lambda one: (-one.attempt, one.path)):
        with st.container(horizontal=True, vertical_alignment="center"):
            about = f"{one.kind} · {size(one.size_bytes)} · attempt {one.attempt} · {ago(one.created_at)}"
            st.html(
                f"<div>{escape(one.path)}<div class='sf-note'>{escape(about)}</div></div>",
                width="stretch",
            )
            if one.size_bytes <= MOST_DOWNLOAD_BYTES:
                st.download_button(
                    "Download", fetched(job, one), file_name=one.path.rsplit("/", 1)[-1], on_click="ignore",
                    key=f"get-{one.attempt}-{one.path}", icon=":material/download:",
                    mime="application/octet-stream", help=one.path,
                )  # fmt: skip


def fetched(job: JobDetail, artifact: ArtifactView) -> Callable[[], bytes]:
    """Fetch the file when its button is clicked, not before."""

    def fetch() -> bytes:
        content = BytesIO()
        connection.client().download_artifact(job.id, artifact.path, content, attempt=artifact.attempt)
        return content.getvalue()

    return fetch


def whole_log(job: JobDetail, attempt: int) -> Callable[[], bytes]:
    """Fetch the exact bytes of an attempt's log when its button is clicked."""

    def fetch() -> bytes:
        content = BytesIO()
        connection.client().download_log(job.id, content, attempt=attempt)
        return content.getvalue()

    return fetch


def ticking(draw: Callable[[Client, JobDetail], str], job: JobDetail) -> None:
    """HTML that is asked for again every few seconds while the job lives."""

    def tick() -> None:
        try:
            st.html(draw(connection.client(), job))
        except OrchestratorError as error:
            st.html(f'<div class="sf-note">{escape(error.message)}</div>')

    st.fragment(tick, run_every=None if job.status in TERMINAL else SLOW_TICK_S)()


def side(job: JobDetail) -> None:
    """Everything about the job that is not live by the second."""
    names = ["Parameters", "Attempts", "Checkpoints", "Artifacts", "Commands", "Events"]
    boxes = [
        tab.container(height=SIDE_HEIGHT_PX, border=False, key=f"side-{name.lower()}")
        for name, tab in zip(names, st.tabs(names), strict=True)
    ]
    boxes[0].html(parameters(job))
    boxes[1].html(attempts(job))
    with boxes[2]:
        ticking(checkpoints, job)
    with boxes[3]:
        try:
            artifacts(connection.client(), job)
        except OrchestratorError as error:
            st.html(f'<div class="sf-note">{escape(error.message)}</div>')
    boxes[4].html(commands(job))
    with boxes[5]:
        ticking(events, job)


def logs(job: JobDetail) -> None:
    components.terminal(job)
    if not job.attempts:
        return
    with st.container(horizontal=True, horizontal_alignment="right"):
        for number in range(1, job.attempts + 1):
            which = "whole log" if job.attempts == 1 else f"log of attempt {number}"
            st.download_button(
                f"Download {which}", whole_log(job, number), file_name=f"{job.id}-{number}.log", on_click="ignore",
                key=f"log-{number}", icon=":material/download:", mime="text/plain",
            )  # fmt: skip


def resources(job: JobDetail) -> None:
    """What the job used over time, asked for again while it runs."""
    if not job.attempts:
        return
    slot = f"resources-of-{job.id}"

    def tick() -> None:
        try:
            history = connection.client().resources(job.id, max_points=RESOURCE_POINTS)
            st.session_state[slot] = resource_charts(history)
        except OrchestratorError:
            pass  # the banner above tells; what was seen last stays
        if charts := st.session_state.get(slot):
            components.resources(job, charts)

    st.fragment(tick, run_every=None if job.status in TERMINAL else RESOURCE_TICK_S)()


def no_job(title: str, text: str) -> None:
    st.html('<h1 class="sf-title">Job</h1>' + markup.empty(title, text))


def find() -> tuple[JobDetail | None, bool]:
    """The job to show and whether it is fresh; draws what to do instead when there is none."""
    client = connection.client()
    job_id = st.query_params.get("job")
    try:
        if not job_id:
            newest = client.jobs(limit=1).items
            if not newest:
                no_job("No job yet", f"Start with {markup.page_link('submit', 'submitting one')}.")
                return None, True
            job_id = st.query_params["job"] = str(newest[0].id)
        job = client.job(job_id)
    except (NotFound, InvalidInput):
        no_job("There is no such job", f"It may have been purged. See {markup.page_link('overview', 'all jobs')}.")
        return None, True
    except OrchestratorError as error:
        known: JobDetail | None = st.session_state.get("known_job")
        if known and str(known.id) == job_id:
            return known, False
        connection.wait_for_orchestrator(error)
        return None, False
    connection.seen()
    st.session_state["known_job"] = job
    return job, True


def page() -> None:
    if notice := st.session_state.pop("notice", None):
        st.toast(notice)
    job, online = find()
    if job is None:
        return
    identity(job, online)
    settled = job.status in TERMINAL and online
    st.fragment(pulse, run_every=SLOW_TICK_S if settled else TICK_S)(job, online)
    if job.type == "container":
        logs(job)
        side(job)
        resources(job)
        return
    with st.container(key="middle"):
        left, right = st.columns([3, 2])
        with left:
            components.curves(job)
        with right:
            side(job)
    if job.type == "sae_features" and job.status == JobStatus.COMPLETED:
        features(job.id)
    logs(job)
    resources(job)


page()
