"""What every tracker can do, and what it is told when it begins."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from worker_image.reporter import Outcome

Config = dict[str, str | int | float | bool | None]
"""What is worth comparing runs by."""


@dataclass(frozen=True)
class TrackedJob:
    """What a tracker is told when it begins."""

    name: str
    """What people call the job."""
    project: str
    tags: tuple[str, ...]
    config: Config
    folder: Path
    """Where its files may go."""
    run_id: str | None
    """The run to go on with, as the tracker itself named it; a new one when empty."""
    step: int
    """Steps done already: what follows replaces anything later."""


class Tracker(Protocol):
    """A run in an experiment tracker. Every method may raise anything its library does."""

    run_id: str
    """Its own name of the run, with which a later process goes on."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Measurements of one step."""
        ...

    def summary(self, config: Config) -> None:
        """What became known only now: the device, sizes, versions."""
        ...

    def finish(self, outcome: Outcome, results: dict[str, float]) -> None:
        """The end, with the final figures. A paused run is one that goes on later."""
        ...
