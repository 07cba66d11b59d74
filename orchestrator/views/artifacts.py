"""What a job leaves."""

from datetime import datetime

from orchestrator.views.base import View


class CheckpointView(View):
    attempt: int
    name: str
    step: int
    loss: float | None
    held_out_loss: float | None = None
    """Loss on held-out tokens, where it was measured."""
    best: bool = False
    """Whether it has the lowest loss on held-out tokens of all the job's."""
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
    reference: str | None = None
    """How a job names the autoencoder that it is part of, as in job:ID/sae_2; none for anything else."""
