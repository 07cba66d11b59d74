"""The dashboard's one way to the orchestrator, and what it does while there is none."""

import functools
import gc
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard import markup
from dashboard.answers import Answer
from dashboard.quantities import clock
from orchestrator.client import Client, Unreachable
from orchestrator.errors import OrchestratorError, Unauthenticated
from orchestrator.settings import Settings

HERE = Path(__file__).parent
TIMEOUT_S = 10.0
"""A page waits no longer for one answer: it ticks, so it will ask again."""
WAIT_TICK_S = 2


@functools.cache
def settle_memory() -> None:
    """Streamlit collects garbage at every rerun; what was imported is not worth looking through each time."""
    gc.collect()
    gc.freeze()


@st.cache_resource(show_spinner=False)
def settings() -> Settings:
    return Settings()


@st.cache_resource(show_spinner=False)
def _connected() -> Client:
    """One client for all sessions. It does not try again by itself: pages tick, and offline has to show at once."""
    found = settings()
    return Client(found.base_url, found.find_api_key(), timeout_s=TIMEOUT_S, retries=0)


def client() -> Client:
    """The client every page and component uses; tests replace this one function."""
    return _connected()


def forget_key() -> None:
    """Read the key again at the next call: the orchestrator may have been set up anew."""
    _connected.clear()


def answered(answer: Answer, job_id: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a component's question, or why there is none."""
    try:
        return answer(client(), job_id, question)
    except OrchestratorError as error:
        return {"error": error.message}


def offline_banner(error: OrchestratorError) -> None:
    """Say that the page shows what it saw last, or nothing, and that it recovers by itself."""
    if isinstance(error, Unauthenticated):
        forget_key()
        title = "The orchestrator does not accept the dashboard's key"
    elif isinstance(error, Unreachable):
        title = "The orchestrator is offline"
    else:
        title = "The orchestrator could not answer"
    seen = st.session_state.get("last_seen")
    since = f"Last seen {clock(seen)}. Showing what was known then, read-only. " if seen else ""
    st.html(markup.banner(title, f"{since}This page recovers by itself.", markup.explained(error)))


def seen() -> None:
    """Remember that the orchestrator answered just now."""
    st.session_state["last_seen"] = datetime.now(UTC)


@st.fragment(run_every=WAIT_TICK_S)
def wait_for_orchestrator(error: OrchestratorError) -> None:
    """Show the banner where a page has nothing else to show, and draw the page anew once there is an answer."""
    try:
        client().system_status()
    except OrchestratorError as newest:
        error = newest
    else:
        st.rerun()
    offline_banner(error)
