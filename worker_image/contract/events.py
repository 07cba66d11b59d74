"""Events: what a job reports. Appended to ``events.jsonl`` by the worker alone, one JSON object a line.

``seq`` counts from 1 within an attempt, so ``(attempt, seq)`` names an event for ever and reading a file twice
changes nothing.
"""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

LARGEST = 2**53
"""Largest whole number that every reader of JSON keeps exactly."""
YEAR_3000 = 32_503_680_000.0
"""Seconds since the epoch; a later time is a defect of the worker's clock."""

CheckpointName = Annotated[str, Field(pattern=r"^(step|anomaly)_[0-9]{1,16}$")]
ArtifactPath = Annotated[str, Field(pattern=r"^[\w][\w.-]*(/[\w][\w.-]*)*$", max_length=500)]
"""Relative, and no part of it leads up."""


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    seq: int = Field(ge=1, le=LARGEST)
    """Position within the attempt, from 1."""
    ts: float = Field(ge=0, le=YEAR_3000)
    """When it happened, seconds since the epoch."""


class Started(_Event):
    """The worker has loaded its inputs and is about to work."""

    type: Literal["started"] = "started"
    device: str
    """Torch device, e.g. "cuda:0" or "cpu"."""
    summary: dict[str, str | int | float | bool | None]
    """What a person wants to see first: model, dataset, d_in, d_sae, library versions."""
    resumed_from: str | None = None
    """Checkpoint this attempt continues from."""


class Metrics(_Event):
    """Measurements of one training step."""

    type: Literal["metrics"] = "metrics"
    step: int = Field(ge=0, le=LARGEST)
    """Optimiser step."""
    values: dict[str, float]
    """Metric name -> value, e.g. loss, fvu, l0, dead_share, lr, tokens_per_s. Non-finite values are left out."""


class Progress(_Event):
    """How far the job is."""

    type: Literal["progress"] = "progress"
    phase: str
    """What it is doing, e.g. "harvesting" or "training"."""
    done: int = Field(ge=0, le=LARGEST)
    """Units of this phase finished."""
    total: int = Field(ge=0, le=LARGEST)
    """Units of this phase in all."""
    unit: str
    """What is counted, e.g. "tokens" or "steps"."""
    rate_per_s: float | None = None
    """Units per second, moving average."""
    eta_s: float | None = None
    """Seconds to the end of the whole job, when it can be told."""


class CheckpointSaved(_Event):
    """A checkpoint is on disk, whole and synced."""

    type: Literal["checkpoint_saved"] = "checkpoint_saved"
    name: CheckpointName
    """Directory under ``checkpoints/``, e.g. "step_400"; "anomaly_400" was written to be looked at only."""
    step: int = Field(ge=0, le=LARGEST)
    """Optimiser steps done."""
    loss: float | None = None
    """Training loss at that step."""
    held_out_loss: float | None = None
    """Loss on held-out tokens at that step, where it was measured: the lowest is the best checkpoint's."""
    size_bytes: int = Field(ge=0, le=LARGEST)
    """Bytes of all its files."""
    digest: str
    """``sha256:`` and the hex digest over the checkpoint's files."""
    reason: Literal["interval", "command", "pause", "stop", "final", "error", "anomaly"]
    """Why it was written; "error": something failed, and this is what was learned before."""


class CheckpointRemoved(_Event):
    """Retention deleted a checkpoint."""

    type: Literal["checkpoint_removed"] = "checkpoint_removed"
    name: CheckpointName
    """Directory under ``checkpoints/``."""


class ArtifactSaved(_Event):
    """A result file is on disk, whole and synced."""

    type: Literal["artifact_saved"] = "artifact_saved"
    path: ArtifactPath
    """Relative to ``artifacts/``."""
    kind: Literal["sae", "config", "metrics", "report", "file"]
    """What it holds."""
    size_bytes: int = Field(ge=0, le=LARGEST)
    """Bytes of the file."""
    digest: str
    """``sha256:`` and the hex digest of the file."""


class CommandApplied(_Event):
    """A command took effect."""

    type: Literal["command_applied"] = "command_applied"
    command_id: UUID
    """The command's id."""
    detail: str = ""
    """What it did, e.g. the checkpoint's name."""
    step: int | None = Field(default=None, ge=0, le=LARGEST)
    """Optimiser steps done when it took effect."""


class CommandRejected(_Event):
    """A command was understood and refused."""

    type: Literal["command_rejected"] = "command_rejected"
    command_id: UUID
    """The command's id."""
    reason: str
    """Why not."""


class Message(_Event):
    """Something a person should notice."""

    type: Literal["message"] = "message"
    level: Literal["info", "success", "warning", "error"]
    """How much it matters."""
    text: str
    """The message."""


class Failure(BaseModel):
    """Why a job failed, in words that tell what to change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: Literal["user_error", "cuda_oom", "gpu_absent", "disk_full", "internal_error"]
    message: str
    field: str | None = None
    """Parameter at fault."""
    suggestion: str | None = None
    """What to do about it."""


class Finished(_Event):
    """The worker's last word. ``outcome`` says how it ended; the exit code agrees."""

    type: Literal["finished"] = "finished"
    outcome: Literal["completed", "paused", "stopped", "failed"]
    """How it ended."""
    failure: Failure | None = None
    """Present exactly when the outcome is "failed"."""
    results: dict[str, float] = Field(default_factory=dict)
    """Final figures, e.g. held-out fvu and l0, dead_share, alive_latents."""


Event = Annotated[
    Started
    | Metrics
    | Progress
    | CheckpointSaved
    | CheckpointRemoved
    | ArtifactSaved
    | CommandApplied
    | CommandRejected
    | Message
    | Finished,
    Field(discriminator="type"),
]

event: TypeAdapter[
    Started
    | Metrics
    | Progress
    | CheckpointSaved
    | CheckpointRemoved
    | ArtifactSaved
    | CommandApplied
    | CommandRejected
    | Message
    | Finished
] = TypeAdapter(Event)
"""Parses one line of ``events.jsonl``."""
