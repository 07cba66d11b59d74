"""Which checkpoints are deleted once a newer one is safe.

A worker deletes those of its own attempt; those of the attempts before are out of its reach, and the orchestrator's.
Both look at all of them.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict


class Keepable(Protocol):
    """A checkpoint on disk, as far as its keeping depends on it."""

    @property
    def step(self) -> int: ...

    @property
    def held_out_loss(self) -> float | None:
        """Measured on held-out tokens when it was written; None where nothing was measured."""

    @property
    def is_anomaly(self) -> bool:
        """Written for a look at what went wrong, not to continue from."""


class EarlierCheckpoint(BaseModel):
    """One that an earlier attempt of the job left and that is there still."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    attempt: int
    step: int
    held_out_loss: float | None = None
    """Measured on held-out tokens when it was written; None where nothing was measured."""

    @property
    def is_anomaly(self) -> bool:
        """Anomalies are not among them."""
        return False


Found = TypeVar("Found", bound=Keepable)


@dataclass(frozen=True)
class RetentionPolicy:
    """What is kept. Anomalies always are: a training leaves one at most, and nothing else shows what happened."""

    newest: int = 3
    """So many of the newest."""
    every_steps: int | None = 1000
    """Those whose step is a multiple of this; none for their step when None."""
    every_at_most: int = 10
    """Of those so many, besides what stays for other reasons: where there are more, those at multiples of twice as many
    steps, or of four times, and so on."""
    first: bool = True
    """The first one."""
    best: bool = True
    """The one with the lowest held-out loss."""


def best_of(checkpoints: Iterable[Found]) -> Found | None:
    """The checkpoint with the lowest held-out loss, the earliest of equals; None when none was measured."""
    measured = [found for found in checkpoints if found.held_out_loss is not None and not found.is_anomaly]
    return min(measured, key=lambda found: found.held_out_loss or 0.0, default=None)


def doomed(checkpoints: Sequence[Found], policy: RetentionPolicy, in_use: Collection[Found] = ()) -> list[Found]:
    """Those that ``policy`` does not keep, never one ``in_use``; they come, and are returned, oldest first."""
    usable = [found for found in checkpoints if not found.is_anomaly]
    spared = [*in_use, *usable[-policy.newest :]]
    if policy.first:
        spared += usable[:1]
    if policy.best and (best := best_of(usable)) is not None:
        spared.append(best)
    left = [found for found in usable if found not in spared]
    round_ones = _round_ones(left, policy)
    return [found for found in left if found not in round_ones]


def _round_ones(checkpoints: list[Found], policy: RetentionPolicy) -> list[Found]:
    """Those kept for their step. Whoever is kept was kept before, when there were fewer."""
    if policy.every_steps is None:
        return []
    every = policy.every_steps
    found = [one for one in checkpoints if one.step % every == 0]
    last = max((one.step for one in found), default=0)
    while len(found) > policy.every_at_most and every <= last:
        every *= 2
        found = [one for one in found if one.step % every == 0]
    # Several attempts may have left the same step.
    return found[-policy.every_at_most :]
