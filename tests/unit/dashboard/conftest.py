"""Pages run in process against a client that answers from memory."""

from collections.abc import Callable, Iterator

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard import connection
from tests.unit.dashboard.fakes import APP, FakeClient


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeClient]:
    client = FakeClient()
    monkeypatch.setattr(connection, "client", lambda: client)
    yield client
    st.cache_resource.clear()


@pytest.fixture
def open_page(fake: FakeClient) -> Callable[..., AppTest]:
    """Open a page of the real app, e.g. ``open_page("job", job=str(id))``."""

    def open_page(name: str = "overview", **query: str) -> AppTest:
        app = AppTest.from_file(str(APP), default_timeout=20).run()
        for key, value in query.items():
            app.query_params[key] = value
        if name != "overview":
            app.switch_page(f"screens/{name}.py")
        return app.run()

    return open_page
