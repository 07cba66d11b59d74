"""What is submitted again and again."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from orchestrator.views.base import View


class ScheduleView(View):
    """What is submitted again and again, and when."""

    id: UUID
    name: str
    owner: str
    cron: str
    timezone: str
    overlap: str
    kind: str
    submission: dict[str, Any]
    enabled: bool
    created_at: datetime
    next_at: datetime
    """When it submits next, while it is enabled."""
    last_at: datetime | None
    made: UUID | None
    """The job or pipeline it submitted last."""
    detail: str
    """What came of it the last time it was due."""


class SchedulePage(View):
    items: list[ScheduleView]


class ScheduleChanges(BaseModel):
    """Body of ``PATCH /api/schedules/{id}``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    enabled: bool
    """Whether it goes on submitting. Times that passed while it did not are not made up for."""
