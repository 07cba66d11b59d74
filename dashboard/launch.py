"""How the dashboard is started: Streamlit's command line, with the address from the settings."""

import sys
from pathlib import Path

from orchestrator.settings import Settings

APP = Path(__file__).with_name("app.py")


def argv(settings: Settings) -> list[str]:
    """The command that serves the dashboard. All else is in ``.streamlit/config.toml`` beside ``app.py``.

    The flags repeat what must hold even where the environment or a user's own Streamlit configuration says otherwise.
    """
    return [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(APP),
        f"--server.address={settings.dashboard_host}",
        f"--server.port={settings.dashboard_port}",
        "--server.headless=true",
        "--server.fileWatcherType=none",
        "--browser.gatherUsageStats=false",
    ]
