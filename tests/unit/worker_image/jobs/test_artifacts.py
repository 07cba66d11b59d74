"""What a training leaves can be loaded by others, and computes from raw activations what was trained."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests.unit.worker_image.recording import RecordingRun
from tests.unit.worker_image.sae.formats.saes import FAMILIES, D, drawn, some_sae
from worker_image.contract.events import ArtifactSaved
from worker_image.contract.jobs import TrainSaeParams
from worker_image.jobs.train_sae import main
from worker_image.jobs.train_sae.inputs import sae_config
from worker_image.sae.checkpoint import checkpoints_in, load_checkpoint
from worker_image.sae.families import build_sae
from worker_image.sae.files import sha256_of
from worker_image.sae.formats.deployed import Family, Wiring
from worker_image.sae.formats.library import LAYOUTS, layout_of, read_sae
from worker_image.sae.formats.provenance import Provenance
from worker_image.sae.formats.refusals import CannotExpress
from worker_image.sae.normalisation import Scaling

Job = Callable[..., RecordingRun]


@pytest.fixture
def job(bert: Path, corpus: Path, tmp_path: Path) -> Job:
    """Runs a tiny job; keyword arguments change its parameters."""

    def run_job(**different: object) -> RecordingRun:
        defaults: dict[str, object] = {
            "model": str(bert), "dataset": str(corpus), "hookpoint": "layers.1", "expansion_factor": 2, "steps": 6,
            "batch_size": 64, "held_out_tokens": 64, "context_length": 16, "lr": 1e-2, "device": "cpu",
        }  # fmt: skip
        params = TrainSaeParams.model_validate(defaults | different)
        run = RecordingRun(tmp_path / "run", {"model": params.model, "dataset": params.dataset}, lambda run: [], None)
        main(params, run)
        return run

    return run_job


WIRINGS = {
    "autoencoder": {},
    "skip": {"skip_connection": True},
    "crosscoder": {"crosscoder_hookpoints": ["layers.0"]},
    "transcoder": {"target_hookpoint": "layers.0", "skip_connection": True},
}


@pytest.mark.parametrize("wiring", WIRINGS)
def test_the_export_reads_raw_activations_where_training_read_normalised_ones(job: Job, wiring: str) -> None:
    run = job(family="jumprelu", normalisation="standardise", **WIRINGS[wiring])
    checkpoint = load_checkpoint(checkpoints_in(run.checkpoints)[-1])
    params = TrainSaeParams.model_validate(checkpoint.params)
    widths = {name: len(part["mean"]) for name, part in checkpoint.run["scaling"].items()}
    starts = dict(zip(params.hookpoints, range(0, 1000, next(iter(widths.values()))), strict=False))
    columns = {name: slice(starts[name], starts[name] + width) for name, width in widths.items()}
    sae = build_sae(sae_config(params, columns))
    sae.load_state_dict(checkpoint.saes[0].weights)
    raw_NW = drawn(64, sum(widths.values()), seed=30) * 3 + 1
    normalised_NW = Scaling.from_json(checkpoint.run["scaling"], columns).apply(raw_NW)
    with torch.no_grad():
        out = sae(normalised_NW[:, : sae.config.d_in], deployed=True)
    exported, provenance = read_sae(run.artifacts)
    latents_BF = exported.encode(raw_NW[:, : sae.config.d_in])
    assert latents_BF.count_nonzero()
    torch.testing.assert_close(latents_BF, out.code.dense(), rtol=1e-4, atol=1e-4)
    assert provenance.hookpoint == ",".join([params.hookpoint, *params.crosscoder_hookpoints])
    assert provenance.target_hookpoint == (params.target_hookpoint or "")


def test_every_format_that_was_asked_for_is_written_and_announced(job: Job) -> None:
    run = job(k=2, export_formats=["saelens", "sparsify", "dictionary_learning"])
    native, _ = read_sae(run.artifacts)
    for path in ("saelens", "sparsify/layers.1", "dictionary_learning/trainer_0"):
        folder = run.artifacts / path
        assert layout_of(folder).name == path.partition("/")[0]
        sae, provenance = read_sae(folder)
        assert torch.equal(sae.W_dec_FE, native.W_dec_FE)
        assert provenance.training["steps"] == 6
    announced = {event.path: event for event in run.of(ArtifactSaved)}
    left = {str(path.relative_to(run.artifacts)) for path in run.artifacts.rglob("*") if path.is_file()}
    assert announced.keys() == left
    assert all(f"sha256:{sha256_of(run.artifacts / path)}" == event.digest for path, event in announced.items())
    assert [path for path, event in announced.items() if event.kind == "sae"] == ["sae.safetensors"]


def test_with_no_format_asked_for_there_is_our_own(job: Job) -> None:
    run = job(k=2, export_formats=[])
    assert {path.name for path in run.artifacts.iterdir()} == {
        "sae.safetensors",
        "cfg.json",
        "metrics.json",
        "report.md",
    }


def test_what_saelens_cannot_express_is_left_in_sparsifys_format_by_itself(job: Job) -> None:
    run = job(k=2, target_hookpoint="layers.0")
    assert layout_of(run.artifacts / "sparsify" / "layers.1").name == "sparsify"
    assert not (run.artifacts / "saelens").exists()


def test_the_figures_of_training_and_deployment_stand_side_by_side(job: Job) -> None:
    run = job(family="batch_topk", k=2)
    figures = json.loads((run.artifacts / "metrics.json").read_text())
    assert figures.keys() >= {"fvu", "l0", "deployed_fvu", "deployed_l0"}


@pytest.mark.parametrize("layout", ["saelens", "sparsify", "dictionary_learning"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("wiring", "skip"), [("autoencoder", False), ("autoencoder", True), ("transcoder", False), ("crosscoder", False)]
)
def test_what_is_refused_at_submission_is_what_the_format_cannot_express(
    layout: str, family: Family, wiring: Wiring, skip: bool, tmp_path: Path
) -> None:
    asked: dict[str, object] = {"model": "m", "dataset": "d", "family": family, "export_formats": [layout]}
    asked |= {"skip_connection": skip, "dead_latents": "none"}
    asked |= {"target_hookpoint": "layers.2"} if wiring == "transcoder" else {}
    asked |= {"crosscoder_hookpoints": ["layers.2"]} if wiring == "crosscoder" else {}
    try:
        LAYOUTS[layout].write(some_sae(family, wiring, skip, D), tmp_path, Provenance())
        expressed = True
    except CannotExpress:
        expressed = False
    if expressed:
        TrainSaeParams.model_validate(asked)
    else:
        with pytest.raises(ValidationError, match=f"export_formats: {layout} has no {family}"):
            TrainSaeParams.model_validate(asked)


def test_the_formats_of_a_grid_have_to_suit_all_of_it() -> None:
    asked = {"model": "m", "dataset": "d", "grid": {"family": ["topk", "gated"]}, "export_formats": ["sparsify"]}
    with pytest.raises(ValidationError, match="export_formats: sparsify has no gated"):
        TrainSaeParams.model_validate(asked)
