"""The components that run in the browser: the log terminal, the curves and the links between pages.

Their code is served as files from ``assets``. Live data goes from the orchestrator straight to the browser; Python
only answers a component's questions, for a ticket at every connection and for the data itself while no WebSocket
can be had. A question ``{n, kind, ...}`` arrives as the trigger ``ask``; the answer, with the same ``n``, is kept in
the session and passed as ``data["reply"]``, so that a rerun of the page passes the same data again.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import streamlit as st
from streamlit.components.v2.get_bidi_component_manager import get_bidi_component_manager
from streamlit.components.v2.manifest_scanner import ComponentConfig, ComponentManifest

from dashboard import connection
from dashboard.answers import Answer, answer_curves, answer_terminal
from orchestrator.domain import TERMINAL
from orchestrator.views import JobDetail
from worker_image import __version__

_PACKAGE = Path(__file__).parent.parent
_NAMES = ("terminal", "chart", "resources", "links")
_ASSETS = "components/assets"


@functools.cache
def _mounts(manager: object) -> dict[str, Callable[..., Any]]:
    """The components, registered once with each Streamlit runtime.

    Streamlit finds the asset directory of a component by importing a package named like the distribution. Ours is
    ``saeforge`` and imports as ``dashboard``, so the same manifest is handed over directly.
    """
    manifest = ComponentManifest(
        name="saeforge",
        version=__version__,
        components=[ComponentConfig(name=name, asset_dir=_ASSETS) for name in _NAMES],
    )
    get_bidi_component_manager().register_from_manifest(manifest, _PACKAGE)
    return {
        name: st.components.v2.component(f"saeforge.{name}", js=f"{name}.js", isolate_styles=False) for name in _NAMES
    }


def _mount(name: str) -> Callable[..., Any]:
    return _mounts(get_bidi_component_manager())[name]


def api_address() -> dict[str, Any]:
    """Where the browser finds the API: its public address, else the page's own host with the API's port."""
    settings = connection.settings()
    parts = urlsplit(settings.base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"base": settings.public_url.rstrip("/"), "port": port}


def _live(name: str, job: JobDetail, answer: Answer) -> None:
    """Mount a component that asks questions about a job."""
    key = f"{name}-{job.id}"
    slot = f"reply-{key}"

    def on_ask() -> None:
        question = st.session_state[key].get("ask")
        if question:
            st.session_state[slot] = {"n": question["n"], **connection.answered(answer, str(job.id), question)}

    _mount(name)(
        key=key,
        data={
            "job": str(job.id),
            "api": api_address(),
            "active": job.status not in TERMINAL,
            "status": job.status.value,
            "reply": st.session_state.get(slot),
        },
        on_ask_change=on_ask,
    )


@st.fragment
def terminal(job: JobDetail) -> None:
    """The job's log, following as it is written."""
    _live("terminal", job, answer_terminal)


@st.fragment
def curves(job: JobDetail) -> None:
    """The job's metrics, growing as they are measured."""
    _live("chart", job, answer_curves)


def resources(job: JobDetail, charts: list[dict[str, Any]]) -> None:
    """What the job used of CPU, memory and GPUs: small charts in a row."""
    _mount("resources")(key=f"resources-{job.id}", data={"charts": charts})


def links(on_follow: Callable[[dict[str, Any]], None]) -> None:
    """Follow ``<a data-page=... data-job=...>`` links without reloading the page."""
    target = _mount("links")(key="links", on_follow_change=lambda: None).follow
    if target:
        on_follow(target)
