"""The features job: what it tells of a latent is what a search of everything finds."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, GPT2LMHeadModel

from tests.unit.worker_image.recording import RecordingRun
from worker_image.contract.commands import Pause
from worker_image.contract.events import ArtifactSaved, CheckpointSaved, Progress
from worker_image.contract.feature_file import NAME, Feature, FeatureFile
from worker_image.contract.jobs import SaeFeaturesParams
from worker_image.errors import UserError
from worker_image.jobs.sae_features import main
from worker_image.reporter import Instruction
from worker_image.sae.formats import native
from worker_image.sae.formats.deployed import DeployedSae
from worker_image.sae.formats.provenance import Provenance

Job = Callable[..., RecordingRun]
LATENTS = 20


def drawn(family: str, width: int = 12) -> DeployedSae:
    """Random weights; TopK's code is sparse, that of a standard SAE mostly dense."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(LATENTS, width, generator=generator)
    bias = torch.zeros(LATENTS)
    bias[7] = -1e6  # never active
    return DeployedSae(
        family,  # type: ignore[arg-type]
        weights,
        torch.nn.functional.normalize(weights, dim=1),
        torch.zeros(width),
        b_enc_F=bias,
        k=2 if family == "topk" else None,
    )


@pytest.fixture
def job(gpt2: Path, corpus: Path, tmp_path: Path) -> Job:
    """Looks at 600 tokens; keyword arguments change its parameters."""

    def run_job(
        family: str = "topk",
        name: str = "run",
        script: Callable[[RecordingRun], list[Instruction]] = lambda run: [],
        resume_from: Path | None = None,
        **changes: object,
    ) -> RecordingRun:
        native.write(drawn(family), tmp_path / "sae", Provenance(hookpoint="layers.0"))
        defaults: dict[str, object] = {
            "sae": "job:some", "model": str(gpt2), "dataset": str(corpus), "held_out_tokens": 100, "context_length": 16,
            "harvest_batch_size": 4, "device": "cpu", "tokens": 600, "context_tokens": 3, "top_examples": 4,
        }  # fmt: skip
        params = SaeFeaturesParams.model_validate(defaults | changes)
        inputs = {"model": params.model, "dataset": params.dataset, "sae": str(tmp_path / "sae")}
        run = RecordingRun(tmp_path / name, inputs, script, resume_from)
        main(params, run)
        return run

    return run_job


def feature(run: RecordingRun, latent: int) -> Feature:
    with FeatureFile(run.artifacts / NAME) as file:
        found = file.feature(latent)
    assert found is not None
    return found


def searched(family: str, gpt2: Path, run: RecordingRun) -> list[tuple[list[int], Tensor]]:
    """Ids and (T, F) activations of every sequence whose text the examples show, worked out one by one."""
    model = AutoModel.from_pretrained(gpt2)
    sae = drawn(family)
    found: dict[int, list[int]] = {}
    for latent in range(LATENTS):
        for group in feature(run, latent).body.groups:
            for example in group.examples:
                found[example.sequence] = example.tokens
    kept = []
    for _, ids in sorted(found.items()):
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
        kept.append((ids, sae.encode(hidden)))
    return kept


@pytest.mark.parametrize("family", ["topk", "standard"])
def test_the_top_examples_are_those_that_a_search_of_everything_finds(job: Job, gpt2: Path, family: str) -> None:
    # So many that every sequence is among them, and shown whole.
    run = job(family, top_examples=200, context_tokens=16, tokens=300)
    sequences = searched(family, gpt2, run)
    for latent in range(LATENTS):
        found = feature(run, latent)
        peaks = sorted((float(acts[:, latent].max()) for _, acts in sequences), reverse=True)
        expected = [peak for peak in peaks if peak > 0]
        top = [group for group in found.body.groups if group.name == "top"]
        told = [example.acts[example.peak] for example in top[0].examples] if top else []
        assert told == pytest.approx(expected, abs=2e-4)
        total = torch.cat([acts[:, latent] for _, acts in sequences])
        assert found.body.firings == int((total > 0).sum())
        assert found.max == pytest.approx(float(total.max()), abs=1e-4)
        if found.body.firings:
            assert found.mean == pytest.approx(float(total[total > 0].mean()), abs=1e-4)
        assert sum(found.body.histogram.counts) == found.body.firings


@pytest.mark.parametrize("family", ["topk", "standard"])
def test_fewer_top_examples_are_the_first_of_more(job: Job, family: str) -> None:
    few, many = job(family, "few", top_examples=3), job(family, "many", top_examples=8)
    for latent in range(LATENTS):
        shorter, longer = feature(few, latent).body.groups, feature(many, latent).body.groups
        assert shorter[:1] == [group.model_copy(update={"examples": group.examples[:3]}) for group in longer[:1]]


def test_nothing_depends_on_how_sequences_are_batched(job: Job) -> None:
    one, other = job(name="one", harvest_batch_size=1), job(name="other", harvest_batch_size=64)
    for latent in range(LATENTS):
        first, second = feature(one, latent), feature(other, latent)
        assert [[(example.sequence, example.peak) for example in group.examples] for group in first.body.groups] == [
            [(example.sequence, example.peak) for example in group.examples] for group in second.body.groups
        ]
        assert first.body.histogram == second.body.histogram


def test_quantiles_cut_a_sample_into_groups_that_do_not_overlap(job: Job) -> None:
    run = job("standard", quantiles=4, examples_per_quantile=3)
    body = feature(run, 3).body
    groups = [group for group in body.groups if group.name.startswith("quantile")]
    assert [group.name for group in groups] == ["quantile 1", "quantile 2", "quantile 3", "quantile 4"]
    peaks = [[example.acts[example.peak] for example in group.examples] for group in groups]
    assert [len(each) for each in peaks] == [3, 3, 3, 3]
    assert all(max(low) <= min(high) for low, high in pairwise(peaks))


def test_the_sample_follows_from_the_seed(job: Job) -> None:
    def sampled(name: str, seed: int) -> list[int]:
        groups = feature(job("standard", name, seed=seed), 3).body.groups
        return [example.sequence for group in groups[1:] for example in group.examples]

    assert sampled("a", 0) == sampled("b", 0) != sampled("c", 1)


def test_logit_effects_are_those_of_the_last_matrix(job: Job, gpt2: Path) -> None:
    found = feature(job(effects=3), 5)
    unembedding = GPT2LMHeadModel.from_pretrained(gpt2).lm_head.weight.detach()
    logits = unembedding @ drawn("topk").W_dec_FE[5]
    assert [effect.token for effect in found.body.promoted] == logits.topk(3).indices.tolist()
    assert [effect.logit for effect in found.body.suppressed] == pytest.approx(
        logits.topk(3, largest=False).values.tolist(), abs=1e-4
    )
    tokenizer = AutoTokenizer.from_pretrained(gpt2)
    assert found.texts[found.body.promoted[0].token] == tokenizer.decode([found.body.promoted[0].token])


def test_a_model_of_another_width_is_refused(job: Job, bert: Path) -> None:
    with pytest.raises(UserError, match="16 in this model"):
        job(model=str(bert))


def test_neighbours_are_the_nearest_decoder_rows(job: Job) -> None:
    found = feature(job(neighbours=2), 5)
    rows = drawn("topk").W_dec_FE
    cosines = rows @ rows[5]
    cosines[5] = -1
    assert [(each.latent, each.cosine) for each in found.body.neighbours] == [
        (index, pytest.approx(value, abs=1e-4))
        for index, value in zip(cosines.topk(2).indices.tolist(), cosines.topk(2).values.tolist(), strict=True)
    ]


def test_only_the_latents_that_were_named_are_in_the_file(job: Job) -> None:
    some, every = job(name="some", latents=[9, 2, 7]), job(name="every")
    with FeatureFile(some.artifacts / NAME) as file:
        page = file.page(offset=0, limit=10, sort="latent")
    assert [item.latent for item in page.items] == [2, 7, 9]
    assert feature(some, 9).body.groups[0] == feature(every, 9).body.groups[0]
    assert feature(some, 7).body.groups == []


def test_pages_are_sorted_by_what_is_asked(job: Job) -> None:
    with FeatureFile(job().artifacts / NAME) as file:
        whole = file.page(offset=0, limit=LATENTS, sort="-density")
        rest = file.page(offset=5, limit=3, sort="-density")
    densities = [item.density for item in whole.items]
    assert densities == sorted(densities, reverse=True)
    assert (rest.items, rest.total) == (whole.items[5:8], LATENTS)


def test_a_summary_and_the_file_are_left(job: Job) -> None:
    run = job()
    assert {saved.path for saved in run.of(ArtifactSaved)} == {"features.db", "features.json"}
    report = json.loads((run.artifacts / "features.json").read_text())
    assert 600 <= report["tokens"] == run.finished.results["tokens"] < 616
    assert run.finished.results["l0"] == pytest.approx(2, abs=0.2)
    assert run.of(Progress)[-1].phase == "looking around them"


def test_a_latent_that_is_not_there_is_refused(job: Job) -> None:
    with pytest.raises(UserError) as caught:
        job(latents=[LATENTS])
    assert caught.value.field == "latents"


def test_it_can_be_paused(job: Job) -> None:
    run = job(script=lambda run: [Pause(id=uuid4(), ts=0)])
    assert run.finished.outcome == "paused"
    assert not (run.artifacts / NAME).exists()


@pytest.mark.parametrize("family", ["topk", "standard"])
def test_paused_it_goes_on_to_the_same_features_without_doing_anything_again(job: Job, family: str) -> None:
    def counting(counted: list[int], pause_at: int = 0) -> Callable[[RecordingRun], list[Instruction]]:
        def script(_: RecordingRun) -> list[Instruction]:
            counted.append(1)
            return [Pause(id=uuid4(), ts=0)] if len(counted) == pause_at else []

        return script

    # Few enough a chunk that there are several.
    of_whole: list[int] = []
    shape = {"harvest_batch_size": 1, "tokens": 1500}
    whole = job(family, "whole", counting(of_whole), **shape)
    passes = len(of_whole)
    for done in {1, passes // 2, passes - 10, passes - 1}:
        halted = job(family, f"halted_{done}", counting([], done), **shape)
        counted: list[int] = []
        place = halted.checkpoints / halted.of(CheckpointSaved)[0].name
        resumed = job(family, f"resumed_{done}", counting(counted), place, **shape)
        assert len(counted) == passes - done
        assert [feature(resumed, latent) for latent in range(LATENTS)] == [
            feature(whole, latent) for latent in range(LATENTS)
        ]
        assert resumed.finished.results["l0"] == whole.finished.results["l0"]
