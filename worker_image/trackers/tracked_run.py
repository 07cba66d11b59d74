"""A run whose measurements also go to trackers. Whoever trains does not know of it."""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from worker_image.contract.events import Event, Failure, Started
from worker_image.contract.tracking import TrackerName, TrackingParams
from worker_image.errors import UserError
from worker_image.reporter import Outcome, RunContext, finite
from worker_image.trackers.relay import Relay
from worker_image.trackers.tracker import Config, TrackedJob, Tracker

_LIBRARY: dict[TrackerName, str] = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""Tracker -> the package it needs, which the extra of its name installs."""
_SECRETS = (
    "WANDB_API_KEY",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)
"""Secrets that the libraries read from the environment."""
_BEGINNING_S = 10.0
"""Longest wait, before the first checkpoint, for the name of a run that only its server knows."""
_ENDING_S = 30.0


def check_trackers(params: TrackingParams) -> None:
    """Raises: UserError: a tracker's library is not installed."""
    for name in params.trackers:
        if importlib.util.find_spec(_LIBRARY[name]) is None:
            raise UserError(
                "trackers",
                f"{name} is not installed where this job runs",
                f"build the worker image with it (WORKER_EXTRAS=worker,{name} make image), or where you train without "
                f"one: pip install 'saeforge[{name}]'",
            )


def lend_secrets(environment: dict[str, str] | os._Environ[str] = os.environ) -> None:
    """Put the secrets that tracker libraries read where they look: this process's environment, and nowhere else."""
    folder = environment.get("SAEFORGE_SECRETS_DIR")
    for name in _SECRETS:
        file = Path(folder or "/nowhere") / name
        if folder and name not in environment and file.is_file():
            environment[name] = file.read_text().strip()


@dataclass(frozen=True)
class TrackedBefore:
    """What came before this process."""

    runs: Mapping[str, str] = field(default_factory=dict)
    """Tracker -> its run to go on with."""
    step: int = 0
    """Steps done."""


class TrackedRun:
    """``RunContext`` that hands measurements on, beside what it wraps."""

    def __init__(self, run: RunContext, params: TrackingParams, before: TrackedBefore | None = None) -> None:
        """
        Args:
            before: what a checkpoint tells of the trackers' runs to go on with.

        Raises:
            UserError: a tracker's library is not installed.
        """
        before = before or TrackedBefore()
        check_trackers(params)
        lend_secrets()
        self._run = run
        self._known = dict(before.runs)
        self._relays = [
            Relay(name, partial(_begun, name, params, _job(run, params, self._known.get(name), before.step)))
            for name in params.trackers
        ]

    def __getattr__(self, name: str) -> Any:
        # Everything else is the run's own business, whatever it may come to offer.
        return getattr(self._run, name)

    @property
    def tracker_runs(self) -> dict[str, str]:
        """Tracker -> its run, to go on with later. Belongs into every checkpoint."""
        for relay in self._relays:
            if relay.name not in self._known and (run_id := relay.run_id(_BEGINNING_S)):
                self._known[relay.name] = run_id
        return dict(self._known)

    def emit(self, event: type[Event], **fields: object) -> None:
        self._run.emit(event, **fields)
        if event is Started:
            made = Started(seq=1, ts=0, **fields)
            for relay in self._relays:
                relay.summary({"device": made.device, **made.summary})
        self._tell_problems(self._relays)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self._run.metrics(step, values)
        for relay in self._relays:
            relay.log(step, finite(values))

    def finish(
        self, outcome: Outcome, *, failure: Failure | None = None, results: dict[str, float] | None = None
    ) -> None:
        self._close(outcome, finite(results or {}))
        # The last word, after which nothing may follow.
        self._run.finish(outcome, failure=failure, results=results)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Tell the trackers of an end that the run itself does not report: whoever runs the job does."""
        if kind is not None:
            self._close("failed", {})

    def _close(self, outcome: Outcome, results: dict[str, float]) -> None:
        relays, self._relays = self._relays, []
        for relay in relays:
            relay.finish(outcome, results, _ENDING_S)
        self._tell_problems(relays)

    def _tell_problems(self, relays: list[Relay]) -> None:
        for relay in relays:
            for problem in relay.problems():
                self._run.notify(f"tracker {relay.name}: {problem}", "warning")


def _job(run: RunContext, params: TrackingParams, run_id: str | None, step: int) -> TrackedJob:
    config: Config = {
        name: value if isinstance(value, str | int | float | bool) or value is None else str(value)
        for name, value in params.model_dump(
            mode="json", exclude=set(TrackingParams.model_fields) - {"network"}
        ).items()
    }
    return TrackedJob(
        name=run.name,
        project=params.tracker_project,
        tags=tuple(params.tracker_tags),
        config=config,
        folder=run.artifacts.parent / "trackers",
        run_id=run_id,
        step=step,
    )


def _begun(name: TrackerName, params: TrackingParams, job: TrackedJob) -> Tracker:
    match name:
        case "tensorboard":
            from worker_image.trackers.tensorboard import TensorBoardTracker

            return TensorBoardTracker(job)
        case "wandb":
            from worker_image.trackers.wandb import WandbTracker

            return WandbTracker(job, params.wandb_mode, params.wandb_entity)
        case "mlflow":
            from worker_image.trackers.mlflow import MlflowTracker

            return MlflowTracker(job, params.mlflow_uri)
