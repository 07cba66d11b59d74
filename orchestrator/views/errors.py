"""The one shape of every error answer."""

from datetime import datetime

from orchestrator.views.base import View


class ErrorDetails(View):
    field: str | None = None
    """The part of the request at fault."""
    suggestion: str | None = None
    """What to do about it."""


class ErrorView(View):
    """The one shape of every error answer."""

    code: str
    message: str
    details: ErrorDetails = ErrorDetails()
    timestamp: datetime
