"""Owners of jobs: what each may, holds and used."""

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.views.base import View


class OwnerLimits(BaseModel):
    """Body of ``PUT /api/owners/{owner}``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    share: float = Field(default=1.0, gt=0, le=1000)
    """Weight against other owners whose jobs have the same priority."""
    max_running: int | None = Field(default=None, ge=0, le=1_000_000)
    """Most jobs that hold anything at a time; not limited when empty."""
    max_gpus: int | None = Field(default=None, ge=0, le=10_000)
    """Most GPUs held at a time, of a shared one the part of its memory; not limited when empty."""
    max_queued: int | None = Field(default=None, ge=0, le=10_000_000)
    """Most jobs in the queue; a further one is refused. Not limited when empty."""


class OwnerView(View):
    """An owner of jobs: what it may, holds and used."""

    owner: str
    share: float
    max_running: int | None
    max_gpus: int | None
    max_queued: int | None
    running: int
    """Jobs that hold something now."""
    gpus: int
    """GPUs held now, shared ones included."""
    queued: int
    usage_gpu_s: float
    """Use so far in GPU seconds, a core counting a fiftieth of a GPU; it fades with a half-life. Of two owners with the
    same share, the one with less goes first."""
