"""Weights & Biases: offline files that ``wandb sync`` uploads, or live where there is a network."""

from typing import Literal
from uuid import uuid4

from worker_image.reporter import Outcome
from worker_image.trackers.tracker import Config, TrackedJob

_OUTLASTED_S = 20.0
"""Longest wait for an upload at the end."""


class WandbTracker:
    """A W&B run. Its id is made here, so that a resumed job goes on with it, offline too."""

    def __init__(self, job: TrackedJob, mode: Literal["offline", "online"], entity: str | None) -> None:
        import wandb

        self.run_id = job.run_id or uuid4().hex[:12]
        job.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=job.project,
            entity=entity,
            name=job.name or None,
            tags=list(job.tags),
            config=dict(job.config),
            dir=str(job.folder),
            mode=mode,
            id=self.run_id,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            # The job has a log of its own, and its code, host and repository are nobody else's business.
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                finish_timeout=_OUTLASTED_S,
            ),
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def summary(self, config: Config) -> None:
        self._run.config.update(dict(config), allow_val_change=True)

    def finish(self, outcome: Outcome, results: dict[str, float]) -> None:
        self._run.summary.update({**results, "outcome": outcome})
        self._run.finish(exit_code=1 if outcome == "failed" else 0)
