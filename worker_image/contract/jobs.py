"""The registry of job types: one frozen model each, joined in one union.

Validation, defaults, OpenAPI, the dashboard's form, the CLI's flags, the container's command and the commands a job
answers to all derive from these classes. Adding a job type is one class in this package, one module in
``worker_image/jobs/`` and one line in ``JobParams``.
"""

from typing import Annotated, get_args

from pydantic import Field, TypeAdapter

from worker_image.contract.container import ContainerParams
from worker_image.contract.evaluate_sae import EvaluateSaeParams
from worker_image.contract.harvest_activations import HarvestActivationsParams
from worker_image.contract.job_type import JobType
from worker_image.contract.sae_features import SaeFeaturesParams
from worker_image.contract.train_sae import TrainSaeParams

__all__ = [
    "JOB_TYPES",
    "ContainerParams",
    "EvaluateSaeParams",
    "HarvestActivationsParams",
    "JobParams",
    "JobType",
    "SaeFeaturesParams",
    "TrainSaeParams",
    "job_params",
]

JobParams = Annotated[
    TrainSaeParams | HarvestActivationsParams | EvaluateSaeParams | SaeFeaturesParams | ContainerParams,
    Field(discriminator="type"),
]
"""The registry: every job type there is."""

job_params: TypeAdapter[
    TrainSaeParams | HarvestActivationsParams | EvaluateSaeParams | SaeFeaturesParams | ContainerParams
] = TypeAdapter(JobParams)
"""Parses ``{"type": ..., ...}`` into the right model."""

JOB_TYPES: dict[str, type[JobType]] = {
    model.model_fields["type"].default: model for model in get_args(get_args(JobParams)[0])
}
"""Type name -> its model, derived from the union."""
