"""Each tracker against its real library, without a network: what it wrote is read back."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from worker_image.trackers.tracker import TrackedJob

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def job(folder: Path, run_id: str | None = None, step: int = 0) -> TrackedJob:
    config = {"k": 32, "lr": None, "family": "topk"}
    return TrackedJob("night run", "probing", ("first", "second"), config, folder, run_id, step)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    # Set by the tracker itself; here so that it is taken back.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_reads_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from worker_image.trackers.tensorboard import TensorBoardTracker

    tracker = TensorBoardTracker(job(tmp_path))
    tracker.summary({"device": "cpu"})
    tracker.log(10, {"loss": 0.5, "fvu": 0.25})
    tracker.log(20, {"loss": 0.25})
    tracker.finish("completed", {"fvu": 0.125})
    assert scalars(tmp_path, "loss") == [(10, 0.5), (20, 0.25)]
    assert scalars(tmp_path, "final/fvu") == [(20, 0.125)]


def test_tensorboard_lets_a_resumed_run_replace_what_it_does_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from worker_image.trackers.tensorboard import TensorBoardTracker

    killed = TensorBoardTracker(job(tmp_path))
    for step in (10, 20, 30):
        killed.log(step, {"loss": 1.0})
    killed.finish("paused", {})
    resumed = TensorBoardTracker(job(tmp_path, run_id=killed.run_id, step=10))
    resumed.log(20, {"loss": 0.5})
    resumed.finish("completed", {})
    assert scalars(tmp_path, "loss") == [(10, 1.0), (20, 0.5)]


def wandb_records(folder: Path) -> Iterator[Any]:
    """What the offline files of W&B hold, oldest first: a LevelDB log of protobuf records."""
    from wandb.proto import wandb_internal_pb2

    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, at, whole = file.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32_768 - at % 32_768 < 7:  # no header fits the rest of a block
                at += 32_768 - at % 32_768
                continue
            _, length, kind = struct.unpack_from("<IHB", data, at)
            whole += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # all of a record, or its last part
                record = wandb_internal_pb2.Record()
                record.ParseFromString(whole)
                yield record
                whole = b""


def test_wandb_writes_offline_what_was_measured_and_goes_on_with_its_run(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    from worker_image.trackers.wandb import WandbTracker

    # A directory each, as attempts have.
    earlier, later = tmp_path / "1", tmp_path / "2"
    first = WandbTracker(job(earlier), "offline", "team")
    first.log(10, {"loss": 0.5})
    first.finish("paused", {})
    second = WandbTracker(job(later, run_id=first.run_id, step=10), "offline", "team")
    second.log(20, {"loss": 0.25})
    second.finish("completed", {"fvu": 0.125})

    wandb.teardown()  # as at the exit of a process: the service writes after finish() has returned
    records = [*wandb_records(earlier), *wandb_records(later)]
    runs = [record.run for record in records if record.HasField("run")]
    assert {run.run_id for run in runs} == {first.run_id}
    assert (runs[0].project, runs[0].entity, runs[0].display_name) == ("probing", "team", "night run")
    assert list(runs[0].tags) == ["first", "second"]
    logged = [
        {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [(row["_step"], row["loss"]) for row in logged] == [("10", "0.5"), ("20", "0.25")]


def test_mlflow_reads_what_was_measured_and_goes_on_with_its_run(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    from worker_image.trackers.mlflow import MlflowTracker

    first = MlflowTracker(job(tmp_path), None)
    first.log(10, {"loss": 0.5})
    first.finish("paused", {})
    second = MlflowTracker(job(tmp_path, run_id=first.run_id, step=10), None)
    second.summary({"device": "cpu"})
    second.log(20, {"loss": 0.25})
    second.finish("completed", {"fvu": 0.125})

    client = MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    assert second.run_id == first.run_id
    run = client.get_run(first.run_id)
    assert (run.info.run_name, run.info.status) == ("night run", "FINISHED")
    assert run.data.params == {"k": "32", "lr": "None", "family": "topk"}
    assert run.data.tags["tag.first"] == "true"
    assert run.data.tags["saeforge.device"] == "cpu"
    assert [(item.step, item.value) for item in client.get_metric_history(first.run_id, "loss")] == [
        (10, 0.5),
        (20, 0.25),
    ]
    assert run.data.metrics["final.fvu"] == 0.125


def test_mlflow_begins_another_run_where_the_old_one_is_not_known(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    from worker_image.trackers.mlflow import MlflowTracker

    tracker = MlflowTracker(job(tmp_path, run_id="0" * 32), None)
    tracker.finish("completed", {})
    tags = MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri()).get_run(tracker.run_id).data.tags
    assert tags["saeforge.continues"] == "0" * 32
