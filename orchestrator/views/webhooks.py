"""Who is told of what, and what became of it."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.domain import JobStatus
from orchestrator.views.base import View


class WebhookRequest(BaseModel):
    """Body of ``POST /api/webhooks``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    url: str = Field(min_length=1, max_length=2048)
    """Where to send to: http or https, on the public internet or allowed by SAEFORGE_WEBHOOK_ALLOW."""
    events: list[str] = Field(default=["job_created", "status_changed"], min_length=1, max_length=50)
    """What to tell: names of events, such as training:completed, or their stored types."""
    statuses: list[JobStatus] = Field(default=[], max_length=20)
    """Of changes of status only those to one of these; all when empty."""
    owner: str | None = Field(default=None, min_length=1, max_length=100)
    """Only of this owner's jobs."""
    tag: str | None = Field(default=None, min_length=1, max_length=200)
    """Only of jobs with this tag."""
    description: str = Field(default="", max_length=500)
    """What it is for."""


class WebhookView(View):
    """Who is told of what, and how far that is."""

    id: UUID
    url: str
    events: list[str]
    statuses: list[JobStatus]
    owner: str | None
    tag: str | None
    description: str
    created_at: datetime
    disabled: str | None
    """Why nothing is sent any more, until it is enabled again."""
    cursor: int
    """Id of the last event that it was told of or that passed before it was made."""
    tries: int
    """Tries of the event that is next, so far, that failed."""
    next_try_at: datetime


class NewWebhookView(WebhookView):
    secret: str
    """Signs what is sent. Nobody can tell it again."""


class WebhookTryView(View):
    """What became of one try."""

    event_id: int | None
    """Empty of a ping."""
    type: str
    number: int
    """From 1 for each event."""
    at: datetime
    duration_s: float
    status_code: int | None
    """Empty when nobody answered."""
    error: str | None
    """Why it does not count as delivered; empty when it does."""
