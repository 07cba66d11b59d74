"""MLflow: a tracking server, or files in the run directory."""

import os
import time

from worker_image.reporter import Outcome
from worker_image.trackers.tracker import Config, TrackedJob

_STATUS: dict[Outcome, str] = {
    "completed": "FINISHED",
    "stopped": "KILLED",
    "paused": "SCHEDULED",
    "failed": "FAILED",
}
_MOST_METRICS = 1000
"""In one request, by MLflow's own limit."""
_LONGEST_VALUE = 6000
"""Characters of a parameter, by MLflow's own limit."""


class MlflowTracker:
    """A run in an MLflow experiment."""

    def __init__(self, job: TrackedJob, uri: str | None) -> None:
        # Files are all that is needed where there is no server; MLflow asks to be told that one knows of databases.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        # A server that is away must not hold the thread for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=uri or (job.folder / "mlflow").resolve().as_uri())
        self._step = job.step
        found = None
        if job.run_id:
            try:
                found = self._client.get_run(job.run_id)
                self._client.update_run(job.run_id, status="RUNNING")
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                # Another store than before: a new run, that says which one it goes on with.
        self.run_id = found.info.run_id if found else self._begun(job)
        self._params(job.config, unless_known=set(found.data.params) if found else set())

    def _begun(self, job: TrackedJob) -> str:
        known = self._client.get_experiment_by_name(job.project)
        experiment = known.experiment_id if known else self._client.create_experiment(job.project)
        tags = {f"tag.{tag}": "true" for tag in job.tags}
        if job.run_id:
            tags["saeforge.continues"] = job.run_id
        run_id: str = self._client.create_run(experiment, run_name=job.name or None, tags=tags).info.run_id
        return run_id

    def _params(self, config: Config, unless_known: set[str]) -> None:
        from mlflow.entities import Param

        # A parameter is written once and never changed.
        params = [
            Param(name, str(value)[:_LONGEST_VALUE]) for name, value in config.items() if name not in unless_known
        ]
        for start in range(0, len(params), 100):
            self._client.log_batch(self.run_id, params=params[start : start + 100])

    def log(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        self._step = step
        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, now_ms, step) for name, value in values.items()]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _MOST_METRICS])

    def summary(self, config: Config) -> None:
        for name, value in config.items():
            self._client.set_tag(self.run_id, f"saeforge.{name}", str(value))

    def finish(self, outcome: Outcome, results: dict[str, float]) -> None:
        self.log(self._step, {f"final.{name}": value for name, value in results.items()})
        self._client.set_terminated(self.run_id, status=_STATUS[outcome])
