"""What every kind of job has: its parameters as one frozen model, and what the platform needs to know about it."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from worker_image.contract.commands import CommandType
from worker_image.contract.retention import RetentionPolicy

ModelRef = Annotated[str, Field(min_length=1, max_length=512, json_schema_extra={"x-reference": "model"})]
"""A model: a name under ``<home>/models``, an absolute path under an allowed root, or a Hugging Face hub id."""

DatasetRef = Annotated[str, Field(min_length=1, max_length=512, json_schema_extra={"x-reference": "dataset"})]
"""A dataset: a name under ``<home>/datasets``, an absolute path or pattern under an allowed root, or a hub id."""

SaeRef = Annotated[str, Field(min_length=1, max_length=512, json_schema_extra={"x-reference": "sae"})]
"""A trained autoencoder's folder: ``job:<id>``, ``job:<id>/<folder of its artifacts>``, a name under ``<home>/saes``,
or an absolute path under an allowed root."""


def recommended(low: float, high: float) -> dict[str, Any]:
    """The narrow range the form recommends; the field's own bounds are what the API accepts."""
    return {"x-recommended": [low, high]}


BASIC: dict[str, Any] = {"x-basic": True}
"""Marks a field that the form always shows, though no range of it is recommended."""


def group(name: str) -> dict[str, Any]:
    """The section of the form that a field belongs to."""
    return {"x-group": name}


def when(**conditions: list[object]) -> dict[str, Any]:
    """Values of other fields with which a field means something; with any other it must be left alone.

    Of a field that is a list, one of its items has to be among the values.
    """
    return {"x-when": conditions}


def meets(actual: object, values: list[object]) -> bool:
    """Whether a field's value is one of those with which another means something."""
    return any(item in values for item in actual) if isinstance(actual, list) else actual in values


class JobType(BaseModel):
    """Parameters of one kind of job. Unknown fields are errors; instances never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())

    title: ClassVar[str]
    """What a person calls this job type."""
    commands: ClassVar[frozenset[CommandType]] = frozenset()
    """Commands its worker acknowledges while running."""
    live: ClassVar[frozenset[str]] = frozenset()
    """Parameters that a running job takes up from ``set_parameters``; the others want a new job."""
    resumable: ClassVar[bool] = False
    """Whether a new attempt can continue from a checkpoint of an earlier one: what pause needs."""
    uses_gpu: ClassVar[bool] = False
    """Whether one GPU is asked for when the submitter does not say."""

    type: str
    network: bool = False
    """Whether the container may use the network."""

    @property
    def retention(self) -> RetentionPolicy | None:
        """Which of the checkpoints of all its attempts stay; all of them when None."""
        return None

    @classmethod
    def references(cls) -> dict[str, str]:
        """Field name -> ``"model"``, ``"dataset"`` or ``"sae"``, for the fields that name something on disk."""
        found: dict[str, str] = {}
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and isinstance(kind := extra.get("x-reference"), str):
                found[name] = kind
        return found

    @classmethod
    def conditions(cls) -> dict[str, dict[str, list[object]]]:
        """Field name -> the values of other fields with which it means something, for fields marked ``when``."""
        found: dict[str, dict[str, list[object]]] = {}
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and isinstance(needed := extra.get("x-when"), dict):
                found[name] = needed  # type: ignore[assignment]
        return found

    @model_validator(mode="after")
    def _nothing_inert(self) -> Self:
        """An option that would do nothing is a mistake of who set it: it is refused, not ignored."""
        varied = self.varied()
        for name, needed in self.conditions().items():
            field = type(self).model_fields[name]
            if getattr(self, name) == field.get_default(call_default_factory=True):
                continue
            for other, values in needed.items():
                if not meets(actual := getattr(self, other), values) and other not in varied:
                    wanted = " or ".join(repr(value) for value in values)
                    raise ValueError(
                        f"{name}: it does nothing with {other} {actual!r}; leave it out, or set {other} to {wanted}"
                    )
        return self

    def varied(self) -> frozenset[str]:
        """Fields that stand for several values, none of which is the field's own."""
        return frozenset()

    def argv(self, run_dir: str, python: str = "python") -> tuple[str, ...]:
        """The command the container runs. ``run_dir`` is the attempt's directory as the container sees it."""
        return (python, "-m", "worker_image.run", run_dir)
