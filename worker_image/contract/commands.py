"""Commands: what a running job is told. Appended to ``commands.jsonl`` by the orchestrator alone.

Each carries an id; the worker answers with ``CommandApplied`` or ``CommandRejected`` naming it, so that what was
requested and what took effect are never confused.
"""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

CommandType = Literal["pause", "stop", "checkpoint", "set_learning_rate", "set_parameters", "validate"]

ParameterValue = bool | int | float | str | None
"""What a parameter that can change while its job runs may be."""


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: UUID
    """Names the command in its acknowledgement."""
    ts: float
    """When it was requested, seconds since the epoch."""


class Pause(_Command):
    """Write a checkpoint, then exit so that the GPU is free. A later attempt continues from it."""

    type: Literal["pause"] = "pause"


class Stop(_Command):
    """Write a final checkpoint and the artifacts so far, then exit for good."""

    type: Literal["stop"] = "stop"


class CheckpointNow(_Command):
    """Write a checkpoint and go on."""

    type: Literal["checkpoint"] = "checkpoint"


class SetLearningRate(_Command):
    """Replace the peak learning rate; warm-up and decay scale with it."""

    type: Literal["set_learning_rate"] = "set_learning_rate"
    lr: float = Field(ge=1e-6, le=0.1)
    """The new peak learning rate."""


class SetParameters(_Command):
    """Change parameters that a running job can take up: coefficients, intervals, what is kept."""

    type: Literal["set_parameters"] = "set_parameters"
    values: dict[str, ParameterValue] = Field(min_length=1)
    """Parameter -> its new value; all of them are taken up, or none."""


class Validate(_Command):
    """Measure on the held-out tokens now and go on."""

    type: Literal["validate"] = "validate"


AnyCommand = Pause | Stop | CheckpointNow | SetLearningRate | SetParameters | Validate

Command = Annotated[AnyCommand, Field(discriminator="type")]

command: TypeAdapter[AnyCommand] = TypeAdapter(Command)
"""Parses one line of ``commands.jsonl``."""


class AppliedChange(BaseModel):
    """A change of parameters that an earlier attempt made, for the next one to make at the same step."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: UUID
    """The command's id: a checkpoint that was written since holds the change already, and says so."""
    step: int = Field(ge=0)
    """Steps done when it took effect."""
    values: dict[str, ParameterValue]
    """Parameter -> value."""
