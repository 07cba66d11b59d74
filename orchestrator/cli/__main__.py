"""``python -m orchestrator.cli`` is ``saeforge``."""

from orchestrator.cli import app

app(prog_name="saeforge")
