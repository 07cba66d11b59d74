"""``saeforge train``: the worker without an orchestrator, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.tiny import DATASET, HOOKPOINT, MODEL, put_inputs

STEPS = 400
CONFIG = f"""
type: train_sae
model: {MODEL}
dataset: {DATASET}
hookpoint: {HOOKPOINT}
k: 4
steps: {STEPS}
batch_size: 64
buffer_tokens: 2048
held_out_tokens: 256
dead_after_tokens: 1000
checkpoint_every_steps: 50
device: cpu
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    put_inputs(folder)
    (folder / "small.yaml").write_text(CONFIG)
    return folder


def begin(place: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "orchestrator.cli", "train", *words]
    environment = {**os.environ, "SAEFORGE_HOME": str(place), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def rows(run: Path) -> list[dict[str, float]]:
    """What was measured, without what the clock decides."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if "_per_s" not in name and name != "stall_share"}
        for line in lines
    ]


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """A run that nothing disturbed."""
    code, said = ended(begin(place, "small.yaml"))
    assert code == 0, said
    return place / "runs" / "small"


def test_a_run_leaves_what_one_under_an_orchestrator_leaves(whole: Path) -> None:
    assert {path.name for path in (whole / "artifacts").iterdir()} >= {"sae.safetensors", "cfg.json", "metrics.json"}
    kinds = {json.loads(line)["type"] for line in (whole / "events.jsonl").read_text().splitlines()}
    assert {"started", "metrics", "progress", "checkpoint_saved", "artifact_saved", "finished"} <= kinds
    assert "SUCCESS" in (whole / "log").read_text()
    assert rows(whole)[-1]["step"] == STEPS


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_ended_run_goes_on_as_if_nothing_had_been(whole: Path, place: Path, blow: signal.Signals) -> None:
    out = place / blow.name
    first = begin(place, "small.yaml", "--out", str(out))
    wait_until(lambda: any((out / "checkpoints").glob("step_*")), first)
    first.send_signal(blow)
    code, said = ended(first)
    assert code == (-signal.SIGKILL if blow == signal.SIGKILL else 4), said

    code, said = ended(begin(place, "--out", str(out), "--resume"))
    assert code == 0, said
    assert rows(out) == rows(whole)
    trained, undisturbed = (load_file(run / "artifacts" / "sae.safetensors") for run in (out, whole))
    assert all(trained[name].equal(undisturbed[name]) for name in undisturbed)


def test_a_run_is_not_written_over(whole: Path, place: Path) -> None:
    code, said = ended(begin(place, "small.yaml"))
    assert code == 2
    assert "--resume goes on with it" in said


def test_the_job_s_own_refusal_reaches_the_terminal(whole: Path, place: Path) -> None:
    too_many = ("--set", "expansion_factor=1", "--set", "k=64")
    code, said = ended(begin(place, "small.yaml", "--out", str(place / "refused"), *too_many))
    assert code == 2
    assert "k" in said
    assert "lower k" in said


def test_a_parameter_may_not_change_on_resume_unless_it_shapes_nothing(whole: Path, place: Path) -> None:
    code, said = ended(begin(place, "small.yaml", "--out", str(whole), "--resume", "--set", "seed=7"))
    assert code == 2
    assert "seed" in said
