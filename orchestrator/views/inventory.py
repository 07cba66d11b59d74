"""Models, datasets and SAEs on disk."""

from datetime import datetime
from typing import Any

from orchestrator.views.artifacts import ArtifactView
from orchestrator.views.base import View


class ModelView(View):
    """A model or dataset on disk."""

    name: str
    path: str
    size_bytes: int
    modified_at: datetime
    detail: dict[str, Any]
    """What its configuration tells, e.g. architecture, layers, hidden size."""


class Inventory(View):
    models: list[ModelView]
    datasets: list[ModelView]
    saes: list[ArtifactView]
