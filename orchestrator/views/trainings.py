"""A training, with what it is about."""

from orchestrator.views.inventory import ModelView
from orchestrator.views.jobs import JobDetail


class TrainingDetail(JobDetail):
    """A training, with what it is about."""

    model: ModelView | None
    """Empty when it is on no disk here: a hub id, or gone since."""
    dataset: ModelView | None
    """Empty when it is gone."""
