"""``python -m dashboard``: serve the dashboard until interrupted."""

import os

from dashboard.launch import argv
from orchestrator.settings import Settings


def main() -> None:
    """Become Streamlit, so that signals reach it and its exit status is ours."""
    command = argv(Settings())
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
