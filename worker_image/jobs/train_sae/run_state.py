"""What a training knows beside its autoencoders, as a checkpoint keeps it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from worker_image.lm.batches import Json
from worker_image.sae.checkpoint import CheckpointState, JsonObject


@dataclass(frozen=True)
class RunState:
    """All of it that continuing needs."""

    position: Json
    """In the batches."""
    dataset_bytes: int
    """Of the dataset that they are of."""
    elapsed_s: float
    """Of training so far, in all attempts."""
    steering: Mapping[str, Any]
    """What ``Steering.to_json`` gave."""
    curves: Mapping[str, Mapping[str, float]]
    """What ``Curves.to_json`` gave."""
    scaling: Mapping[str, Mapping[str, object]] | None = None
    """What ``Scaling.to_json`` gave; None before training has begun."""
    trackers: Mapping[str, str] = field(default_factory=dict)
    """Experiment tracker -> its run."""
    made_with: Mapping[str, str | int] = field(default_factory=dict)
    """What ``made_with`` gave; empty in checkpoints of before it was kept."""

    @classmethod
    def of(cls, checkpoint: CheckpointState) -> Self:
        """What a checkpoint keeps."""
        return cls(**checkpoint.run)  # type: ignore[arg-type]

    def to_json(self) -> JsonObject:
        """For a checkpoint."""
        return asdict(self)
