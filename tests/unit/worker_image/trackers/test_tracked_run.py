"""A run whose measurements go to trackers too."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.unit.worker_image.recording import RecordingRun
from worker_image.contract.events import Metrics, Started
from worker_image.contract.tracking import TrackingParams
from worker_image.errors import UserError
from worker_image.reporter import Outcome
from worker_image.trackers import tracked_run
from worker_image.trackers.tracked_run import TrackedBefore, TrackedRun, lend_secrets
from worker_image.trackers.tracker import Config, TrackedJob

PARAMS = TrackingParams(type="test", trackers=["tensorboard"], tracker_tags=["t"])


class Kept:
    """A tracker that keeps what it is told."""

    def __init__(self, job: TrackedJob) -> None:
        self.run_id = job.run_id or "made-up"
        self.job = job
        self.told: list[object] = []

    def log(self, step: int, values: dict[str, float]) -> None:
        self.told.append((step, values))

    def summary(self, config: Config) -> None:
        self.told.append(config)

    def finish(self, outcome: Outcome, results: dict[str, float]) -> None:
        self.told.append((outcome, results))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Kept]:
    """The trackers that were begun."""
    begun: list[Kept] = []

    def begin(name: str, params: TrackingParams, job: TrackedJob) -> Kept:
        begun.append(Kept(job))
        return begun[-1]

    monkeypatch.setattr(tracked_run, "_begun", begin)
    monkeypatch.setattr(tracked_run, "check_trackers", lambda params: None)
    return begun


def test_a_run_is_reported_as_ever_and_to_its_trackers(tmp_path: Path, kept: list[Kept]) -> None:
    inner = RecordingRun(tmp_path, {})
    run = TrackedRun(inner, PARAMS)
    run.emit(Started, device="cpu", summary={"d_in": 8})
    run.metrics(10, {"loss": 0.5, "fvu": float("inf")})
    run.finish("completed", results={"fvu": 0.25})
    assert [type(event) for event in inner.events[:2]] == [Started, Metrics]
    assert inner.finished.results == {"fvu": 0.25}
    assert kept[0].told == [{"device": "cpu", "d_in": 8}, (10, {"loss": 0.5}), ("completed", {"fvu": 0.25})]


def test_everything_else_is_the_run_s_own(tmp_path: Path, kept: list[Kept]) -> None:
    inner = RecordingRun(tmp_path, {"model": "m"})
    run = TrackedRun(inner, PARAMS)
    run.log("a line")
    assert run.inputs == {"model": "m"}
    assert inner.lines == [("info", "a line")]
    run.finish("completed")


def test_the_tracker_s_run_is_named_for_the_next_checkpoint_and_gone_on_with(tmp_path: Path, kept: list[Kept]) -> None:
    first = TrackedRun(RecordingRun(tmp_path, {}), PARAMS)
    known = first.tracker_runs
    first.finish("paused")
    second = TrackedRun(RecordingRun(tmp_path, {}), PARAMS, TrackedBefore(known, step=40))
    second.finish("completed")
    assert known == {"tensorboard": "made-up"}
    assert (kept[1].job.run_id, kept[1].job.step) == ("made-up", 40)


def test_trackers_are_told_of_a_failure(tmp_path: Path, kept: list[Kept]) -> None:
    inner = RecordingRun(tmp_path, {})
    with pytest.raises(RuntimeError), TrackedRun(inner, PARAMS):
        raise RuntimeError("broken")
    assert kept[0].told == [("failed", {})]
    assert not inner.events, "whoever runs the job reports its failure"


def test_a_tracker_s_trouble_is_a_warning_and_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: list[Kept]
) -> None:
    def begin(*_: object) -> Kept:
        raise OSError("disk on fire")

    monkeypatch.setattr(tracked_run, "_begun", begin)
    inner = RecordingRun(tmp_path, {})
    run = TrackedRun(inner, PARAMS)
    run.metrics(10, {"loss": 0.5})
    run.finish("completed")
    assert inner.finished.outcome == "completed"
    told = "tracker tensorboard: it could not be begun (OSError: disk on fire); nothing goes there"
    assert inner.lines == [("warning", told)]


def test_a_library_that_is_not_installed_is_told_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracked_run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="mlflow is not installed") as caught:
        TrackedRun(RecordingRun(tmp_path, {}), TrackingParams(type="test", trackers=["mlflow"]))
    assert caught.value.field == "trackers"
    assert "saeforge[mlflow]" in (caught.value.suggestion or "")


def test_secrets_are_read_from_their_files_and_only_those_of_trackers(tmp_path: Path) -> None:
    (tmp_path / "WANDB_API_KEY").write_text("key\n")
    (tmp_path / "HF_TOKEN").write_text("token")
    (tmp_path / "MLFLOW_TRACKING_TOKEN").write_text("from the file")
    environment = {"SAEFORGE_SECRETS_DIR": str(tmp_path), "MLFLOW_TRACKING_TOKEN": "given"}
    lend_secrets(environment)
    assert environment["WANDB_API_KEY"] == "key"
    assert environment["MLFLOW_TRACKING_TOKEN"] == "given"
    assert "HF_TOKEN" not in environment


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"tracker_project": "p"}, "tracker_project"),
        ({"trackers": ["tensorboard"], "wandb_entity": "me"}, "wandb_entity"),
        ({"trackers": ["wandb"], "wandb_mode": "online"}, "wandb_mode"),
        ({"trackers": ["mlflow"], "mlflow_uri": "http://mlflow:5000"}, "mlflow_uri"),
        ({"trackers": ["mlflow", "mlflow"]}, "trackers"),
    ],
)
def test_what_would_do_nothing_is_refused(options: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError, match=f"{field}: "):
        TrackingParams.model_validate({"type": "test", **options})
