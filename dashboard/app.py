"""The dashboard's frame: style, navigation, health of the orchestrator. Streamlit runs this file at every rerun.

The pages lie in ``screens``: beside a folder named ``pages`` Streamlit would open the first deep link without this
frame.
"""

from pathlib import Path
from typing import Any

import streamlit as st

from dashboard import components, connection, markup
from orchestrator.client import Unreachable
from orchestrator.errors import OrchestratorError

HERE = Path(__file__).parent
HEALTH_TICK_S = 5
PAGES = {
    "overview": st.Page("screens/overview.py", title="Overview", icon=":material/space_dashboard:", default=True),
    "submit": st.Page("screens/submit.py", title="Submit", icon=":material/add_circle:"),
    "job": st.Page("screens/job.py", title="Job", icon=":material/terminal:"),
    "system": st.Page("screens/system.py", title="System", icon=":material/memory:"),
}


@st.fragment(run_every=HEALTH_TICK_S)
def health() -> None:
    try:
        found = connection.client().health()
    except OrchestratorError as error:
        state = "offline" if isinstance(error, Unreachable) else "error"
        st.html(markup.health(state, connection.settings().base_url))
        return
    connection.seen()
    engine = found.engine or "no engine answers"
    st.html(markup.health(found.status, engine, f"saeforge {found.version}"))


def follow(target: dict[str, Any]) -> None:
    query = {"job": target["job"]} if target.get("job") else None
    st.switch_page(PAGES[target["page"]], query_params=query)


def main() -> None:
    st.set_page_config(
        page_title="saeforge", page_icon=str(HERE / "icon.png"), layout="wide", initial_sidebar_state=210
    )
    connection.settle_memory()
    st.html(HERE / "style.css")
    st.logo(str(HERE / "icon.png"))
    chosen = st.navigation(list(PAGES.values()))
    components.links(follow)
    with st.sidebar:
        health()
    chosen.run()


main()
