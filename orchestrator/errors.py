"""Every error the orchestrator raises on purpose. The HTTP status is a property of the class.

Class docstrings are the default messages; ``field`` and ``suggestion`` tell a person what to change.
"""

import math
from typing import ClassVar


class OrchestratorError(Exception):
    """The orchestrator could not do what was asked."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str | None = None, *, field: str | None = None, suggestion: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").split("\n", 1)[0]
        self.field = field
        self.suggestion = suggestion
        super().__init__(self.message)


class InvalidInput(OrchestratorError):
    """The request is not valid."""

    status = 400
    code = "invalid_input"


class Unauthenticated(OrchestratorError):
    """No valid API key was given."""

    status = 401
    code = "unauthenticated"


class Forbidden(OrchestratorError):
    """This is not allowed."""

    status = 403
    code = "forbidden"


class NotFound(OrchestratorError):
    """There is no such thing."""

    status = 404
    code = "not_found"


class StateConflict(OrchestratorError):
    """The job's state does not allow this."""

    status = 409
    code = "state_conflict"


class StaleTransition(StateConflict):
    """The job left the expected state before this change was written."""


class ContainerLeft(StateConflict):
    """Its container is being removed."""


class IdempotencyConflict(StateConflict):
    """This Idempotency-Key was used before for a different request."""

    code = "idempotency_conflict"


class QuotaExceeded(OrchestratorError):
    """The owner's limit is reached."""

    status = 409
    code = "quota_exceeded"


class TooLarge(OrchestratorError):
    """The request body is too large."""

    status = 413
    code = "too_large"


class DiskFull(OrchestratorError):
    """The disk of the orchestrator is full; nothing was changed."""

    status = 507
    code = "disk_full"


class AddressTooLong(OrchestratorError):
    """The address of the request is too long."""

    status = 414
    code = "address_too_long"


class RateLimited(OrchestratorError):
    """Too many requests."""

    status = 429
    code = "rate_limited"

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        suggestion: str | None = None,
        retry_after_s: float = 1.0,
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, field=field, suggestion=suggestion or f"wait {math.ceil(retry_after_s)} s")


class HeadersTooLarge(OrchestratorError):
    """The headers of the request are too large."""

    status = 431
    code = "headers_too_large"


class RangeNotSatisfiable(OrchestratorError):
    """There are no such bytes."""

    status = 416
    code = "range_not_satisfiable"


class ExecutorError(OrchestratorError):
    """The executor could not do what was asked."""


class EngineUnavailable(ExecutorError):
    """The container engine does not answer."""

    status = 503
    code = "engine_unavailable"


class ImageMissing(ExecutorError):
    """The image is not on this machine and could not be pulled."""

    status = 400
    code = "image_missing"


class LaunchFailed(ExecutorError):
    """The engine refused to start the container."""

    code = "launch_failed"


class SettingsError(OrchestratorError):
    """A setting is not valid."""

    code = "invalid_setting"
