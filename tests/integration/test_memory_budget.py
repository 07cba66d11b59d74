"""The memory that a training was reckoned to take, against what its process took at most."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

from tests.tiny import DATASET, MODEL, put_inputs
from worker_image.contract.budget import training_budget
from worker_image.contract.jobs import TrainSaeParams
from worker_image.contract.model_shape import ModelShape

TOLERANCE = 0.25
"""Of what was taken."""
RUNNER = """
import json, sys
from pathlib import Path
from worker_image.contract.jobs import TrainSaeParams
from worker_image.jobs import train_sae
from worker_image.reporter import NullRun

params = TrainSaeParams(**json.loads(sys.argv[1]))
train_sae.main(params, NullRun(Path(sys.argv[2])))
# Not getrusage's maximum: that one outlives exec, so it begins with what the process that started this one had taken.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print("KIB", peak.split()[1])
"""
WIDE = {"expansion_factor": 256, "k": 16, "grid": {"lr": [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3]}, "batch_size": 512}
PENALISED = {"expansion_factor": 256, "family": "standard", "batch_size": 4096}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    put_inputs(folder)
    return folder


@pytest.mark.parametrize("shape", [WIDE, PENALISED], ids=["six wide ones", "one with a penalty"])
def test_a_training_takes_what_was_reckoned(place: Path, tmp_path: Path, shape: dict[str, object]) -> None:
    model = place / "models" / MODEL
    values = {
        "model": str(model),
        "dataset": str(place / "datasets" / DATASET),
        "device": "cpu",
        "steps": 6,
        "held_out_tokens": 1024,
        "buffer_tokens": 8192,
        "checkpoint_every_steps": 2,
    } | shape
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUNNER, json.dumps(values), str(tmp_path)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert said.returncode == 0, said.stderr
    took = int(said.stdout.rsplit("KIB", 1)[1]) * 1024
    params = TrainSaeParams.model_validate(values)
    config = ModelShape.of(AutoConfig.from_pretrained(model).to_dict())
    reckoned = training_budget(params, config, on_gpu=False, cached=False).total("host")
    assert reckoned == pytest.approx(took, rel=TOLERANCE)
