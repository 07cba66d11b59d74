"""TensorBoard: event files in the run directory, which need no server."""

import json

from worker_image.reporter import Outcome
from worker_image.trackers.tracker import Config, TrackedJob


class TensorBoardTracker:
    """Writes scalars, and the configuration and results as text. Its run is named by its directory."""

    def __init__(self, job: TrackedJob) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = job.folder / "tensorboard"
        self.run_id = str(folder)
        self._step = job.step
        # What a resumed run does again replaces what an earlier process wrote after the checkpoint.
        purge = job.step + 1 if job.run_id else None
        self._writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=10)
        self._text("config", {**job.config, "tags": ", ".join(job.tags)})

    def log(self, step: int, values: dict[str, float]) -> None:
        self._step = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def summary(self, config: Config) -> None:
        self._text("summary", config)

    def finish(self, outcome: Outcome, results: dict[str, float]) -> None:
        for name, value in results.items():
            self._writer.add_scalar(f"final/{name}", value, self._step)
        self._text("outcome", {"outcome": outcome})
        self._writer.close()

    def _text(self, name: str, config: Config) -> None:
        rows = "".join(f"| {key} | {json.dumps(value)} |\n" for key, value in config.items())
        self._writer.add_text(name, f"| | |\n|---|---|\n{rows}", self._step)
