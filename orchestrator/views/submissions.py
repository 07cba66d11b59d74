"""What is asked for when a job is submitted, changed or cloned."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.domain import Resources, RetryPolicy


class TypedSubmission(BaseModel):
    """Body of ``POST /api/jobs/{type}``: the path tells the type."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    params: dict[str, Any] = {}
    """Parameters of that type; GET /api/job-types has their schemas."""
    name: str | None = Field(default=None, min_length=1, max_length=200)
    """What to call the job; made from its type when empty."""
    owner: str | None = Field(default=None, min_length=1, max_length=100)
    """Whose job it is: the owner its key acts for, or "default", when empty."""
    priority: int = Field(default=0, ge=-1000, le=1000)
    """Higher starts earlier."""
    tags: list[str] = Field(default=[], max_length=50)
    resources: Resources = Resources()
    retry: RetryPolicy = RetryPolicy()
    secrets: list[str] = Field(default=[], max_length=50)
    """Names of secrets that it finds as files in the directory that SAEFORGE_SECRETS_DIR names."""


class JobSubmission(TypedSubmission):
    """Body of ``POST /api/jobs``."""

    type: str
    """Job type, e.g. "train_sae"."""


class JobChanges(BaseModel):
    """Body of ``PATCH /api/jobs/{id}``: what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str | None = Field(default=None, min_length=1, max_length=200)
    tags: list[str] | None = Field(default=None, max_length=50)
    """All tags it is to have."""
    priority: int | None = Field(default=None, ge=-1000, le=1000)
    """Higher starts earlier; of a job that has not ended."""
    resources: Resources | None = None
    """What its next attempt asks for, as a whole; of a queued or paused job."""
    retry: RetryPolicy | None = None
    """Of a job that has not ended."""


class CloneRequest(JobChanges):
    """Body of ``POST /api/jobs/{id}/clone``: what the new job is to have instead of the old one's."""

    params: dict[str, Any] = {}
    """Parameters to change; the others stay."""
    owner: str | None = Field(default=None, min_length=1, max_length=100)
    secrets: list[str] | None = Field(default=None, max_length=50)
    """All secrets it is to have."""
