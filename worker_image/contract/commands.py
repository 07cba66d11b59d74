"""Commands: what a running job is told. Appended to ``commands.jsonl`` by the orchestrator alone.

Each carries an id; the worker answers with ``CommandApplied`` or ``CommandRejected`` naming it, so that what was
requested and what took effect are never confused.
"""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

CommandType = Literal["pause", "stop", "checkpoint", "set_learning_rate"]


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


Command = Annotated[Pause | Stop | CheckpointNow | SetLearningRate, Field(discriminator="type")]

command: TypeAdapter[Pause | Stop | CheckpointNow | SetLearningRate] = TypeAdapter(Command)
"""Parses one line of ``commands.jsonl``."""
