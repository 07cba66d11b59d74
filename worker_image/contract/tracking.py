"""Where else a job's measurements go: experiment trackers."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from worker_image.contract.job_type import JobType, group, when

TrackerName = Literal["tensorboard", "wandb", "mlflow"]
"""The trackers there are; each is an extra of the same name."""

_GROUP = group("Trackers")
_LOCAL = ("file:", "/", "./")
"""How addresses begin that need no network."""


class TrackingParams(JobType):
    """Parameters of experiment trackers."""

    trackers: Annotated[list[TrackerName], Field(max_length=3)] = Field(default_factory=list, json_schema_extra=_GROUP)
    """Experiment trackers that are told what is measured, beside saeforge itself. Each needs the extra of its name."""
    tracker_project: str = Field(
        default="saeforge", min_length=1, max_length=128, json_schema_extra=_GROUP | when(trackers=["wandb", "mlflow"])
    )
    """W&B project, MLflow experiment."""
    tracker_tags: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=32)] = Field(
        default_factory=list, json_schema_extra=_GROUP | when(trackers=["tensorboard", "wandb", "mlflow"])
    )
    """Tags of the run in every tracker."""
    wandb_entity: str | None = Field(
        default=None, min_length=1, max_length=128, json_schema_extra=_GROUP | when(trackers=["wandb"])
    )
    """W&B user or team; that of the key when empty."""
    wandb_mode: Literal["offline", "online"] = Field(
        default="offline", json_schema_extra=_GROUP | when(trackers=["wandb"], network=[True])
    )
    """offline writes files that "wandb sync" uploads later; online needs the network and WANDB_API_KEY as a secret."""
    mlflow_uri: str | None = Field(
        default=None, min_length=1, max_length=500, json_schema_extra=_GROUP | when(trackers=["mlflow"])
    )
    """Address of an MLflow server, which needs the network; files in the run directory when empty."""

    @model_validator(mode="after")
    def _trackers_can_be_reached(self) -> Self:
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError("trackers: one is named twice; name each once")
        if self.mlflow_uri and not self.network and not self.mlflow_uri.startswith(_LOCAL):
            raise ValueError("mlflow_uri: a server is reached over the network; set network to true, or leave it out")
        return self
