"""Which checkpoints are deleted once a newer one is safe."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """A checkpoint on disk, as far as its keeping depends on it."""

    name: str
    step: int
    held_out_loss: float | None = None
    """Measured on held-out tokens when it was written; None where nothing was measured."""
    is_anomaly: bool = False
    """Written for a look at what went wrong, not to continue from."""


@dataclass(frozen=True)
class RetentionPolicy:
    """What is kept. Anomalies always are: a training leaves one at most, and nothing else shows what happened."""

    newest: int = 3
    """So many of the newest."""
    every_steps: int | None = 1000
    """Those whose step is a multiple of this; none for their step when None."""
    first: bool = True
    """The first one."""
    best: bool = True
    """The one with the lowest held-out loss."""


def best_of(checkpoints: Iterable[Kept]) -> Kept | None:
    """The checkpoint with the lowest held-out loss, the earliest of equals; None when none was measured."""
    measured = [found for found in checkpoints if found.held_out_loss is not None and not found.is_anomaly]
    return min(measured, key=lambda found: (found.held_out_loss, found.step), default=None)


def doomed(checkpoints: Collection[Kept], policy: RetentionPolicy, in_use: Collection[str] = ()) -> list[str]:
    """Names of those that ``policy`` does not keep, oldest first; never one ``in_use``."""
    usable = sorted((found for found in checkpoints if not found.is_anomaly), key=lambda found: found.step)
    spared = {*in_use, *(found.name for found in usable[-policy.newest :])}
    if policy.first and usable:
        spared.add(usable[0].name)
    if policy.best and (best := best_of(usable)) is not None:
        spared.add(best.name)
    if policy.every_steps is not None:
        spared |= {found.name for found in usable if found.step % policy.every_steps == 0}
    return [found.name for found in usable if found.name not in spared]
