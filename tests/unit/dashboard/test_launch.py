"""How the dashboard is started."""

import tomllib

from dashboard import launch
from orchestrator.settings import Settings


def test_it_listens_where_the_settings_say() -> None:
    command = launch.argv(Settings(dashboard_host="127.0.0.2", dashboard_port=9999))
    assert {"--server.address=127.0.0.2", "--server.port=9999"} <= set(command)


def test_it_sends_no_usage_statistics() -> None:
    assert "--browser.gatherUsageStats=false" in launch.argv(Settings())


def test_the_configuration_lies_where_streamlit_finds_it_from_any_directory() -> None:
    settings = tomllib.loads((launch.APP.parent / ".streamlit" / "config.toml").read_text())
    assert settings["theme"]["base"] == "dark"
    assert settings["browser"]["gatherUsageStats"] is False


def test_no_folder_is_called_pages() -> None:
    """Streamlit would run what lies in it without the frame of app.py."""
    assert not (launch.APP.parent / "pages").exists()
