"""Changing a submitted job's parameters: what may change, what it is now, and what differs before it is asked for."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

import streamlit as st

from dashboard import connection, markup
from orchestrator.client import Client
from orchestrator.errors import OrchestratorError
from orchestrator.views import JobDetail, ParameterChanges


def live_parameters(client: Client, job: JobDetail) -> dict[str, Any]:
    """The parameters that the job takes up as it goes, as they are in force."""
    live = next((kind.live for kind in client.job_types() if kind.type == job.type), [])
    asked = {name: job.params[name] for name in live if name in job.params}
    if not asked:
        return {}
    differing = client.set_parameters(job.id, asked, dry_run=True).differences
    return asked | {item.name: item.now for item in differing if item.name in asked}


def changed(now: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """The values that are not as they are; an empty text means none, as in the form of a new job."""
    wanted = {name: value_of(text) for name, text in texts.items()}
    return {name: value for name, value in wanted.items() if value != now[name]}


def value_of(text: str) -> Any:
    """What a text stands for: a number or another word of JSON, else itself."""
    try:
        return json.loads(text) if text.strip() else None
    except ValueError:
        return text.strip()


def text_of(value: Any) -> str:
    """The text that stands for a value."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def differences(found: ParameterChanges) -> str:
    rows = [
        [escape(item.name), escape(text_of(item.now) or "–"), escape(text_of(item.wanted) or "–")]
        for item in found.differences
    ]
    return markup.table(["parameter", "now", "then"], rows, label="What differs")


@st.dialog("Change parameters", width="medium")
def change_parameters(job: JobDetail) -> None:
    """Ask for new values, show what differs, and have the job take them up from its next step on."""
    client = connection.client()
    try:
        now = live_parameters(client, job)
        st.caption("The job takes these up from its next step on. Everything else wants a new job: Clone.")
        columns = st.columns(2)
        texts = {
            name: columns[place % 2].text_input(name.replace("_", " "), text_of(value), key=f"live-{name}")
            for place, (name, value) in enumerate(now.items())
        }
        wanted = changed(now, texts)
        if wanted:
            st.html(differences(client.set_parameters(job.id, wanted, dry_run=True)))
        if st.button("Change", type="primary", key="live-apply", disabled=not wanted):
            client.set_parameters(job.id, wanted)
            st.session_state["notice"] = f"Change {', '.join(wanted)}: requested"
            st.rerun()
    except OrchestratorError as error:
        st.error(markup.explained(error))
