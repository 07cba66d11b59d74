"""What a job leaves."""

from datetime import datetime

from orchestrator.views.base import View


class CheckpointView(View):
    attempt: int
    name: str
    step: int
    loss: float | None
    size_bytes: int
    digest: str
    reason: str
    created_at: datetime
    path: str
    """Directory on the orchestrator's machine."""


class ArtifactView(View):
    attempt: int
    path: str
    kind: str
    size_bytes: int
    digest: str
    created_at: datetime
    url: str
    """Where to download it, relative to the API's root."""
