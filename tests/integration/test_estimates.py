"""What a job would take, over HTTP and from the command line."""

import json
import struct
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.domain import Resources
from orchestrator.errors import InvalidInput
from tests.integration.conftest import Orchestrator
from worker_image.contract.events import Finished

PARAMS = {"model": "gpt", "dataset": "text", "cache": "off"}


@pytest.fixture(autouse=True)
def _inputs(orchestrator: Orchestrator) -> None:
    """A model whose weights are a header alone: one million numbers."""
    folder = orchestrator.settings.models / "gpt"
    folder.mkdir(parents=True)
    config = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 1000}
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps({"w": {"dtype": "F32", "shape": [1000, 1000], "data_offsets": [0, 4_000_000]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    orchestrator.settings.datasets.mkdir(exist_ok=True)
    (orchestrator.settings.datasets / "text.txt").write_text("some text")


def test_a_training_is_estimated_without_being_queued(orchestrator: Orchestrator) -> None:
    found = orchestrator.client.estimate("train_sae", PARAMS)
    assert (found.device, found.d_in, found.d_sae, found.saes) == ("cpu", 768, 6144, 1)
    assert found.fits
    assert found.seconds > 0
    assert found.measured_jobs == 0
    assert orchestrator.client.jobs().total == 0


def test_the_model_s_size_is_counted_in_its_weights(orchestrator: Orchestrator) -> None:
    found = orchestrator.client.estimate("train_sae", PARAMS)
    host = next(pool for pool in found.pools if pool.pool == "host")
    assert next(part.size_bytes for part in host.components if part.name == "language model") == 4_000_000


def test_what_does_not_fit_is_told_with_what_to_lower(orchestrator: Orchestrator) -> None:
    found = orchestrator.client.estimate("train_sae", PARAMS, resources=Resources(memory_mb=1500))
    assert not found.fits
    host = next(pool for pool in found.pools if pool.pool == "host")
    assert host.limit_bytes == 1500 * 2**20
    assert host.advice[0].field == "buffer_tokens"
    lowered = PARAMS | {"buffer_tokens": host.advice[0].value}
    assert orchestrator.client.estimate("train_sae", lowered, resources=Resources(memory_mb=1500)).fits


def test_a_parameter_that_a_submit_would_refuse_is_refused(orchestrator: Orchestrator) -> None:
    with pytest.raises(InvalidInput, match="steps"):
        orchestrator.client.estimate("train_sae", PARAMS | {"steps": 0})


def test_a_container_cannot_be_estimated(orchestrator: Orchestrator) -> None:
    with pytest.raises(InvalidInput, match="train_sae"):
        orchestrator.client.estimate("container", {"image": "busybox", "command": ["true"]})


def test_what_earlier_trainings_took_is_learned_from(orchestrator: Orchestrator) -> None:
    before = orchestrator.client.estimate("train_sae", PARAMS).seconds
    job = orchestrator.submit("train_sae", params=PARAMS, resources=Resources(gpus=0))
    orchestrator.report(job, Finished(seq=1, ts=0, outcome="completed", results={"wall_time_s": 3 * before}))
    orchestrator.exit(job)
    orchestrator.reaches(job, "completed")
    after = orchestrator.client.estimate("train_sae", PARAMS)
    assert after.measured_jobs == 1
    assert after.seconds == pytest.approx(3 * before, rel=0.01)


def test_the_command_line_shows_it_and_ends_with_an_error_where_it_does_not_fit(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAEFORGE_URL", orchestrator.url)
    monkeypatch.setenv("SAEFORGE_API_KEY", orchestrator.key)
    file = tmp_path / "sae.yaml"
    file.write_text("type: train_sae\nmodel: gpt\ndataset: text\ncache: off\n")
    fits = CliRunner().invoke(app, ["plan", str(file)])
    assert fits.exit_code == 0, fits.output
    assert "6,144 latents on activations of width 768" in fits.output
    tight = CliRunner().invoke(app, ["plan", str(file), "--memory-mb", "1500", "--set", "k=16"])
    assert tight.exit_code == 2
    assert "set buffer_tokens to" in tight.output
