"""The one shape in which errors leave: ``{code, message, details: {field?, suggestion?}, timestamp}``."""

from datetime import UTC, datetime
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.views import ErrorDetails, ErrorView


def error_view(error: OrchestratorError) -> ErrorView:
    return ErrorView(
        code=error.code,
        message=error.message,
        details=ErrorDetails(field=error.field, suggestion=error.suggestion),
        timestamp=datetime.now(UTC),
    )


def error_content(view: ErrorView) -> dict[str, Any]:
    """What is sent of it: details that say nothing are left out."""
    content = view.model_dump(mode="json")
    content["details"] = {key: value for key, value in content["details"].items() if value is not None}
    return content
