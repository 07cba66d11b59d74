"""``saeforge plan`` where no orchestrator is asked."""

import json
import struct
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from orchestrator.cli import app, console
from orchestrator.cli import plan as plan_command
from orchestrator.cli.console import ExitCode
from orchestrator.gpus import Gpu


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model whose weights are a header alone, and no orchestrator anywhere."""
    folder = tmp_path / "gpt"
    folder.mkdir()
    config = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 1000}
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps({"w": {"dtype": "F32", "shape": [1000, 1000], "data_offsets": [0, 4_000_000]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (tmp_path / "text.txt").write_text("some text")
    (tmp_path / "sae.yaml").write_text("type: train_sae\nmodel: gpt\ndataset: text.txt\ncache: off\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAEFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAEFORGE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(console.out, "width", 200)
    monkeypatch.setattr(plan_command, "_gpus", lambda: ())
    return tmp_path


def planned(*words: str) -> Result:
    return CliRunner().invoke(app, ["plan", "sae.yaml", *words])


@pytest.mark.usefixtures("here")
def test_files_are_found_from_where_one_stands_and_nobody_is_asked() -> None:
    shown = planned("--local")
    assert shown.exit_code == ExitCode.OK, shown.output
    assert "6,144 latents on activations of width 768, on cpu" in shown.stdout
    pools = {pool["pool"]: pool for pool in json.loads(planned("--local", "--json").stdout)["pools"]}
    assert {"name": "language model", "size_bytes": 4_000_000}.items() <= next(
        part for part in pools["host"]["components"] if part["name"] == "language model"
    ).items()
    assert "does not answer" not in shown.output


@pytest.mark.usefixtures("here")
def test_where_no_orchestrator_answers_it_is_for_this_machine_and_says_so() -> None:
    shown = planned()
    assert shown.exit_code == ExitCode.OK, shown.output
    assert "this is for this machine" in shown.output


@pytest.mark.usefixtures("here")
def test_a_gpu_that_is_not_here_is_planned_for_by_its_memory() -> None:
    roomy, tight = planned("--local", "--memory-limit", "24576"), planned("--local", "--memory-limit", "700")
    assert roomy.exit_code == ExitCode.OK, roomy.output
    assert "on a GPU of 24576 MiB" in roomy.stdout
    assert "GPU memory" in roomy.stdout
    assert tight.exit_code == ExitCode.BAD_INPUT
    assert "lower" in tight.stdout or "set " in tight.stdout


@pytest.mark.usefixtures("here")
def test_a_gpu_of_this_machine_is_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpu("GPU-a", 0, "NVIDIA A10", 22_731, 0), Gpu("GPU-b", 1, "NVIDIA H100", 81_559, 0)
    monkeypatch.setattr(plan_command, "_gpus", lambda: gpus)
    assert "on NVIDIA A10" in planned("--local").stdout
    assert "on cpu" in planned("--local", "--gpus", "0").stdout


@pytest.mark.usefixtures("here")
def test_what_is_wrong_is_named_as_in_a_submit() -> None:
    missing = planned("--local", "--set", "model=nowhere")
    assert missing.exit_code == ExitCode.BAD_INPUT
    assert "params.model" in missing.stderr
    container = planned("--local", "--set", "type=container", "--set", "image=busybox", "--set", 'command=["true"]')
    assert container.exit_code == ExitCode.BAD_INPUT
