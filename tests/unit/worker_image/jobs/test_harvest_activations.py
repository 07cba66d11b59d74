"""The harvesting job: fills the cache, says what is there, and goes on where it was told to end."""

import json
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from safetensors.torch import load_file

from tests.unit.worker_image.recording import RecordingRun
from worker_image.contract.commands import CheckpointNow, Pause, Stop
from worker_image.contract.events import ArtifactSaved, Progress, Started
from worker_image.contract.jobs import HarvestActivationsParams
from worker_image.errors import UserError
from worker_image.jobs.harvest_activations import main
from worker_image.reporter import Instruction, Terminated

Script = Callable[[RecordingRun], list[Instruction]]
Job = Callable[..., RecordingRun]


@pytest.fixture
def job(bert: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Runs a small job on one cache; keyword arguments change its parameters."""
    monkeypatch.setattr("worker_image.lm.fill._CHUNK_TOKENS", 100)
    monkeypatch.setattr("worker_image.lm.fill._PASSES", 1)
    monkeypatch.setattr("worker_image.jobs.harvest_activations.harvesting._PROGRESS_EVERY_S", 0.0)

    def run_job(name: str = "run", script: Script = lambda run: [], **changes: object) -> RecordingRun:
        defaults: dict[str, object] = {
            "model": str(bert),
            "dataset": str(corpus),
            "hookpoints": ["layers.1"],
            "held_out_tokens": 128,
            "context_length": 16,
            "harvest_batch_size": 4,
            "device": "cpu",
        }
        params = HarvestActivationsParams.model_validate(defaults | changes)
        run = RecordingRun(tmp_path / name, {"model": params.model, "dataset": params.dataset}, script)
        run.cache = tmp_path / "cache"
        main(params, run)
        return run

    return run_job


def after_progress(n: int, *instructions: Instruction) -> Script:
    """Give the instructions once, when so much progress was reported."""
    pending = list(instructions)

    def script(run: RecordingRun) -> list[Instruction]:
        if len(run.of(Progress)) < n:
            return []
        given = list(pending)
        pending.clear()
        return given

    return script


def test_it_tells_what_is_in_the_cache(job: Job) -> None:
    run = job(max_tokens=500)
    assert run.finished.outcome == "completed"
    results = run.finished.results
    assert (results["tokens"], results["held_out_tokens"], results["harvested_tokens"]) == (500, 128, 628)
    assert results["width"] == 16
    assert results["size_bytes"] > 500 * 16 * 4
    # The last thing in a block is a normalisation by layer: every norm is about the root of the width.
    assert results["mean_norm"] == pytest.approx(4, rel=0.01)
    report = json.loads((run.artifacts / "activations.json").read_text())
    assert report["hookpoints"]["layers.1"]["key"]
    assert {event.path for event in run.of(ArtifactSaved)} == {"activations.json", "statistics.safetensors"}


def test_statistics_of_every_hookpoint_are_kept_whole(job: Job) -> None:
    run = job(hookpoints=["layers.1", "layers.0.mlp:in"], max_tokens=200)
    tensors = load_file(run.artifacts / "statistics.safetensors")
    assert set(tensors) == {
        f"{name}.{what}" for name in ("layers.1", "layers.0.mlp:in") for what in ("mean", "variance")
    }
    assert tensors["layers.1.variance"].shape == (16,)
    assert "mean_norm" not in run.finished.results


def test_a_second_job_finds_everything_there(job: Job) -> None:
    job("first", max_tokens=300)
    again = job("again", max_tokens=300)
    assert again.finished.results["harvested_tokens"] == 0
    assert again.finished.results["tokens"] == 300


def test_without_a_limit_the_whole_dataset_is_harvested(job: Job) -> None:
    run = job()
    last = run.of(Progress)[-1]
    assert last.done == last.total == run.finished.results["tokens"] + 128
    assert job("again").finished.results["harvested_tokens"] == 0


@pytest.mark.parametrize(
    ("instruction", "outcome"),
    [(Pause(id=uuid4(), ts=0), "paused"), (Stop(id=uuid4(), ts=0), "stopped"), (Terminated(), "stopped")],
)
def test_an_end_before_the_end_keeps_what_was_harvested(job: Job, instruction: Instruction, outcome: str) -> None:
    run = job("first", after_progress(12, instruction), max_tokens=900)
    assert run.finished.outcome == outcome
    [(answer, asked, detail)] = run.answers
    assert (answer, asked) == ("applied", instruction)
    kept = int(detail.split()[0])
    assert kept > 0
    rest = job("rest", max_tokens=900).finished.results
    assert (rest["tokens"], rest["harvested_tokens"]) == (900, 900 - kept)


def test_what_it_cannot_do_is_refused(job: Job) -> None:
    run = job(script=after_progress(1, CheckpointNow(id=uuid4(), ts=0)), max_tokens=300)
    assert [(answer, asked.type) for answer, asked, _ in run.answers] == [("rejected", "checkpoint")]
    assert run.finished.outcome == "completed"


def test_progress_never_goes_backwards_and_ends_full(job: Job) -> None:
    progress = job(max_tokens=500).of(Progress)
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    assert all(event.done <= event.total for event in progress)
    assert progress[-1].eta_s == 0


def test_it_says_beforehand_what_it_will_do(job: Job) -> None:
    [started] = job(max_tokens=100).of(Started)
    assert started.summary["hookpoints"] == "encoder.layer.1"


def test_without_a_cache_there_is_nothing_to_fill(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker_image.jobs.harvest_activations.cache_of", lambda *_: None)
    with pytest.raises(UserError, match="keeps no activation cache"):
        job()
