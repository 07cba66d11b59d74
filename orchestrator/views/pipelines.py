"""Jobs in steps."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from orchestrator.domain import JobStatus
from orchestrator.views.base import View


class StepView(View):
    """A step of a pipeline."""

    name: str
    type: str
    needs: dict[str, str]
    """Steps that must have ended before, and how."""
    state: str
    """waiting, started, skipped or refused; of a started one the job tells the rest."""
    detail: str
    """Why it was skipped or refused, or what its job failed by: for good, or so that it pauses or is tried again."""
    job_id: UUID | None
    status: JobStatus | None
    """Of its job; empty when it has none, or none any more."""


class PipelineView(View):
    """Jobs in steps, and how they stand."""

    id: UUID
    name: str
    owner: str
    tags: list[str]
    created_at: datetime
    status: Literal["running", "completed", "failed", "cancelled"]
    """Running until every step has ended; failed if one ended badly or could not start."""
    steps: list[StepView]


class PipelinePage(View):
    items: list[PipelineView]
