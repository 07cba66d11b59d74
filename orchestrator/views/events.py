"""Stored events."""

from datetime import datetime
from typing import Any
from uuid import UUID

from orchestrator.views.base import View


class EventView(View):
    """A stored event: the worker's own (attempt and seq set) or the orchestrator's."""

    id: int
    """Position among all events of this orchestrator; pass it as ``after`` to go on."""
    job_id: UUID
    attempt: int | None
    seq: int | None
    ts: datetime
    type: str
    name: str | None = None
    """Its public name, e.g. "training:progress"; empty for events that have none."""
    data: dict[str, Any]


class EventPage(View):
    items: list[EventView]
    next_after: int
    """Pass it as ``after`` to go on; it may lie beyond the last item, when a filter passed others over."""
