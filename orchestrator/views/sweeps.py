"""Sweeps, and what came of their jobs."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.domain import JobStatus
from orchestrator.sweeps import SweepSpace
from orchestrator.views.base import View
from orchestrator.views.submissions import JobSubmission


class SweepSubmission(JobSubmission, SweepSpace):
    """Body of ``POST /api/sweeps``: a job's submission, and which of its parameters are varied."""

    max_running: int | None = Field(default=None, ge=1)
    """Most of its jobs that run at once; as many as there is room for when empty."""


class SweepChanges(BaseModel):
    """Body of ``PATCH /api/sweeps/{id}``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    max_running: int | None = Field(ge=1)
    """Most of its jobs that run at once; null for as many as there is room for."""


class SweepView(View):
    """A sweep, with how its jobs stand."""

    id: UUID
    name: str
    type: str
    owner: str
    varied: list[str]
    """The parameters that differ between its jobs."""
    max_running: int | None
    created_at: datetime
    jobs: dict[JobStatus, int]
    """How many of its jobs are in each status."""


class SweepPage(View):
    items: list[SweepView]


class SweepPoint(View):
    """One job of a sweep, with what it was given and what came of it."""

    job_id: UUID
    name: str
    status: JobStatus
    params: dict[str, Any]
    """The varied ones."""
    values: dict[str, float]
    """Its results, or its newest metrics while it has none."""


class SweepResults(View):
    items: list[SweepPoint]
    """In the order of their making; by the metric, best first, when one is named."""


class SweepActed(View):
    """What became of an action on all jobs of a sweep."""

    done: int
    """Jobs it was asked of."""
    left: int
    """Jobs whose status does not allow it."""
