"""Whether the orchestrator is up and ready."""

from typing import Literal

from orchestrator.views.base import View


class Health(View):
    status: Literal["ok", "degraded"]
    ready: bool
    version: str
    engine: str | None
    disk_error: str | None = None
    """Why no new attempt starts for want of disk space."""
    parts: dict[str, bool] = {}
    """What it needs to take and start jobs -> whether that is well."""


class Liveness(View):
    status: Literal["ok"] = "ok"


class Readiness(View):
    ready: bool
    parts: dict[str, bool]
    """What it needs to take and start jobs -> whether that is well."""
