"""What can be run."""

from typing import Any

from orchestrator.views.base import View


class JobTypeView(View):
    type: str
    title: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema of the parameters."""
    commands: list[str]
    live: list[str] = []
    """Parameters that a running job takes up."""
    resumable: bool
    uses_gpu: bool
