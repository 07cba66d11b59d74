"""The worker as the launcher starts it: a process with a run directory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tests.waiting import until
from worker_image.contract.events import CheckpointSaved, Finished, Metrics, Started, event
from worker_image.contract.jobs import TrainSaeParams
from worker_image.contract.launch import DISK_FULL_EXIT_CODE
from worker_image.contract.rundir import RunDir, RunSpec
from worker_image.run import prepare_environment

ROOT = Path(__file__).parents[3]


@pytest.fixture
def params(bert: Path, corpus: Path) -> TrainSaeParams:
    return TrainSaeParams(
        model=str(bert),
        dataset=str(corpus),
        hookpoint="layers.1",
        k=2,
        expansion_factor=2,
        steps=5,
        batch_size=32,
        held_out_tokens=64,
        log_every_steps=1,
        context_length=16,
        device="cpu",
    )


def lay_out(folder: Path, params: TrainSaeParams) -> RunDir:
    run_dir = RunDir(folder / "run")
    inputs = {"model": params.model, "dataset": params.dataset}
    run_dir.create(RunSpec(job_id=uuid4(), attempt=1, name="test", params=params, inputs=inputs, cpus=1))
    return run_dir


def start(run_dir: RunDir) -> subprocess.Popen[bytes]:
    with run_dir.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "worker_image.run", str(run_dir.path)],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | {"HOME": "/nonexistent"},
        )


def events_of(run_dir: RunDir) -> list:  # type: ignore[type-arg]
    return [event.validate_json(line) for line in run_dir.events.read_bytes().splitlines()]


def test_a_whole_job_from_params_to_artifacts(tmp_path: Path, params: TrainSaeParams) -> None:
    run_dir = lay_out(tmp_path, params)
    assert start(run_dir).wait(60) == 0, run_dir.log.read_text()
    events = events_of(run_dir)
    assert [e.seq for e in events] == list(range(1, len(events) + 1))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert events[-1].outcome == "completed"
    left = {"sae.safetensors", "cfg.json", "metrics.json", "report.md", "saelens"}
    assert {path.name for path in run_dir.artifacts.iterdir()} == left
    assert json.loads((run_dir.artifacts / "metrics.json").read_text())["fvu"] == events[-1].results["fvu"]
    log = run_dir.log.read_text()
    assert "step 5/5  loss" in log
    assert "Traceback" not in log
    # Every line is ours: no library speaks up.
    assert all(line.split()[2] in ("INFO", "SUCCESS") for line in log.splitlines())


def test_sigterm_leaves_a_checkpoint_and_the_word_stopped(tmp_path: Path, params: TrainSaeParams) -> None:
    run_dir = lay_out(tmp_path, params.model_copy(update={"steps": 1_000_000, "log_every_steps": 10}))
    process = start(run_dir)
    until(
        lambda: process.poll() is not None or any(isinstance(e, Metrics) for e in whole_events(run_dir)),
        "the first metrics",
        run_dir.log.read_text,
        timeout_s=60,
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, run_dir.log.read_text()
    events = events_of(run_dir)
    assert events[-1].outcome == "stopped"
    [saved] = [e for e in events if isinstance(e, CheckpointSaved)]
    assert saved.reason == "stop"
    assert (run_dir.checkpoints / saved.name / "manifest.json").is_file()


def whole_events(run_dir: RunDir) -> list:  # type: ignore[type-arg]
    data = run_dir.events.read_bytes()
    return [event.validate_json(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def test_a_user_error_ends_with_two_and_names_the_field(tmp_path: Path, params: TrainSaeParams) -> None:
    run_dir = lay_out(tmp_path, params.model_copy(update={"hookpoint": "layers.7"}))
    assert start(run_dir).wait(60) == 2
    [finished] = events_of(run_dir)
    assert finished.failure.code == "user_error"
    assert finished.failure.field == "hookpoint"
    assert "layers.0, layers.1, layers.2" in finished.failure.suggestion
    assert "Traceback" not in run_dir.log.read_text()


def test_a_directory_without_params_is_an_error_in_words(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker_image.run", str(tmp_path)], capture_output=True, cwd=ROOT, text=True, check=False
    )
    assert done.returncode == 2
    assert "cannot read" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_full_log_does_not_keep_the_last_word_from_being_written(tmp_path: Path, params: TrainSaeParams) -> None:
    run_dir = lay_out(tmp_path, params.model_copy(update={"hookpoint": "layers.7"}))
    run_dir.log.unlink()
    run_dir.log.symlink_to("/dev/full")
    assert start(run_dir).wait(60) == 2
    [finished] = events_of(run_dir)
    assert finished.failure.field == "hookpoint"


def test_when_not_even_the_last_word_can_be_written_the_exit_code_says_why(
    tmp_path: Path, params: TrainSaeParams
) -> None:
    run_dir = lay_out(tmp_path, params)
    for file in (run_dir.log, run_dir.events):
        file.unlink()
        file.symlink_to("/dev/full")
    assert start(run_dir).wait(60) == DISK_FULL_EXIT_CODE


@pytest.mark.parametrize(
    ("network", "home", "wanted"), [(True, "/tmp", "/cache/hub"), (True, str(ROOT), None), (False, "/tmp", None)]
)
def test_what_a_container_fetches_from_the_hub_is_kept_beside_the_cache(
    params: TrainSaeParams, monkeypatch: pytest.MonkeyPatch, network: bool, home: str, wanted: str | None
) -> None:
    monkeypatch.setattr(os, "environ", {"HOME": home})
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    asked = params.model_copy(update={"network": network})
    prepare_environment(RunSpec(job_id=uuid4(), attempt=1, name="test", params=asked, cache="/cache"))
    assert os.environ.get("HF_HOME") == wanted
