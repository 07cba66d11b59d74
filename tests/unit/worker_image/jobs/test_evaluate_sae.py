"""The evaluating job: a perfect autoencoder loses nothing, one that gives zero loses all that ablating does."""

import json
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from tests.unit.worker_image.conftest import SPECIALS, WORDS, save_tokenizer
from tests.unit.worker_image.recording import RecordingRun
from worker_image.contract.commands import Pause, Stop
from worker_image.contract.events import ArtifactSaved, CheckpointSaved, Progress
from worker_image.contract.jobs import EvaluateSaeParams, TrainSaeParams
from worker_image.errors import UserError
from worker_image.jobs.evaluate_sae import main
from worker_image.jobs.train_sae import main as train
from worker_image.lm.head import load_headed
from worker_image.lm.hookpoints import Hookpoint
from worker_image.lm.model import find_model
from worker_image.lm.splice import Losses, Splice, passes_of
from worker_image.lm.tokens import Sequence
from worker_image.reporter import Instruction, Terminated
from worker_image.sae.formats import native
from worker_image.sae.formats.deployed import DeployedSae, Wiring
from worker_image.sae.formats.provenance import Provenance

Job = Callable[..., RecordingRun]


def perfect(width: int, wiring: Wiring = "autoencoder") -> DeployedSae:
    """Gives what it reads: one latent for each direction and its opposite."""
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    zeros = torch.zeros(2 * width)
    return DeployedSae("standard", both, both.clone(), torch.zeros(width), b_enc_F=zeros, wiring=wiring)


def silent(width: int) -> DeployedSae:
    """Gives zero, whatever it reads."""
    weights = torch.eye(width)
    return DeployedSae("standard", weights, weights.clone(), torch.zeros(width), b_enc_F=torch.full((width,), -1e6))


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """A random masked language model, 16 wide."""
    folder = tmp_path / "masked"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIALS) + len(WORDS) + 1, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    save_tokenizer(folder, wrapped=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def job(gpt2: Path, corpus: Path, tmp_path: Path) -> Job:
    """Evaluates an autoencoder on 200 tokens; keyword arguments change its parameters."""

    def run_job(
        sae: DeployedSae,
        hookpoint: str = "layers.0",
        target: str = "",
        script: Callable[[RecordingRun], list[Instruction]] = lambda run: [],
        name: str = "run",
        resume_from: Path | None = None,
        **changes: object,
    ) -> RecordingRun:
        native.write(sae, tmp_path / "sae", Provenance(hookpoint=hookpoint, target_hookpoint=target))
        defaults: dict[str, object] = {
            "sae": "job:some",
            "model": str(gpt2),
            "dataset": str(corpus),
            "held_out_tokens": 200,
            "context_length": 16,
            "harvest_batch_size": 4,
            "device": "cpu",
        }
        params = EvaluateSaeParams.model_validate(defaults | changes)
        inputs = {"model": params.model, "dataset": params.dataset, "sae": str(tmp_path / "sae")}
        run = RecordingRun(tmp_path / name, inputs, script, resume_from)
        main(params, run)
        return run

    return run_job


@pytest.mark.parametrize("hookpoint", ["layers.0", "layers.1", "layers.1.mlp", "layers.1.attn", "layers.1:in"])
def test_a_perfect_autoencoder_recovers_all_of_the_loss(job: Job, hookpoint: str) -> None:
    results = job(perfect(12), hookpoint).finished.results
    assert results["loss_recovered"] == pytest.approx(1, abs=1e-4)
    assert results["kl_recovered"] == pytest.approx(1, abs=1e-4)
    assert results["fvu"] == pytest.approx(0, abs=1e-10)
    assert results["cosine_similarity"] == pytest.approx(1)
    assert results["l2_ratio"] == pytest.approx(1)


def test_one_that_gives_zero_recovers_nothing(job: Job) -> None:
    results = job(silent(12), "layers.1").finished.results
    assert results["loss_recovered"] == 0
    assert results["ce_spliced"] == results["ce_zero"]
    assert results["kl_spliced"] == results["kl_zero"] > 0
    assert results["l0"] == 0
    assert results["dead_share"] == 1


def test_the_clean_loss_is_that_of_the_model(gpt2: Path) -> None:
    headed = load_headed(find_model(str(gpt2), ["layers.0"], network=False), torch.float32, torch.device("cpu"))
    ids = torch.randint(4, 64, (1, 12), generator=torch.Generator().manual_seed(0))
    sequence = Sequence(ids[0].numpy().astype(np.int32), np.arange(12, dtype=np.int32))
    [given] = passes_of([sequence], headed, batch_tokens=64, pad_id=0, mask_id=0, share=0, seed=0)
    losses = Losses()
    place = Hookpoint("layers.0", "h.0")
    Splice(headed, [place], [place], torch.device("cpu")).add_to(losses, given, lambda x_ND: x_ND, {})
    with torch.no_grad():
        own = headed.model(input_ids=ids, labels=ids).loss.item()
    assert losses.mean("clean") == pytest.approx(own)
    assert losses.mean("spliced") == pytest.approx(own)
    assert losses.tokens == 11


def test_masked_models_are_made_to_guess(job: Job, masked: Path) -> None:
    results = job(perfect(16), "layers.1", model=str(masked), masked_share=0.5).finished.results
    assert results["loss_recovered"] == pytest.approx(1, abs=1e-3)
    assert 60 < results["predicted_tokens"] < 140
    assert results["kl_mean"] > 0


def test_what_is_masked_follows_from_the_seed(job: Job, masked: Path) -> None:
    def clean_loss(**changes: object) -> float:
        return job(perfect(16), "layers.1", model=str(masked), **changes).finished.results["ce_clean"]

    assert clean_loss(harvest_batch_size=4) == pytest.approx(clean_loss(harvest_batch_size=16), rel=1e-5)
    assert clean_loss(seed=0) != clean_loss(seed=1)


def test_without_a_head_the_rest_is_measured_and_the_reason_told(job: Job, bert: Path) -> None:
    run = job(perfect(16), "layers.1", model=str(bert))
    assert "loss_recovered" not in run.finished.results
    assert run.finished.results["explained_variance"] == pytest.approx(1)
    report = json.loads((run.artifacts / "evaluation.json").read_text())
    assert "BertModel" in report["loss_recovered_unavailable"]
    assert any("not available" in text for _, text in run.lines)
    assert [saved.path for saved in run.of(ArtifactSaved)] == ["evaluation.json"]


def test_a_transcoder_is_spliced_in_where_it_writes(job: Job) -> None:
    """One that maps the MLP's input to its output by nothing at all is as good as ablating the output."""
    sae = silent(12)
    blind = DeployedSae("standard", sae.W_enc_FD, sae.W_dec_FE, sae.b_dec_E, b_enc_F=sae.b_enc_F, wiring="transcoder")
    results = job(blind, "layers.1.mlp:in", "layers.1.mlp").finished.results
    assert results["loss_recovered"] == 0
    alone = job(silent(12), "layers.1.mlp").finished.results
    assert results["ce_spliced"] == pytest.approx(alone["ce_spliced"])


def test_a_crosscoder_is_measured_at_each_of_its_hookpoints(job: Job) -> None:
    results = job(perfect(24, "crosscoder"), "layers.0,layers.1").finished.results
    assert results["loss_recovered"] == pytest.approx(1, abs=1e-4)
    assert results["fvu/layers.0"] == pytest.approx(0, abs=1e-10)
    assert results["cosine_similarity/layers.1"] == pytest.approx(1)


def test_densities_and_shares_of_l0_are_told(job: Job) -> None:
    run = job(perfect(12))
    assert run.finished.results["l0"] == pytest.approx(12, abs=0.1)
    assert run.finished.results["l0_share"] == pytest.approx(0.5, abs=0.01)
    report = json.loads((run.artifacts / "evaluation.json").read_text())
    assert sum(report["densities"].values()) == pytest.approx(1 - run.finished.results["dead_share"])
    assert run.of(Progress)[-1].done == run.of(Progress)[-1].total


def test_an_autoencoder_of_another_width_is_refused(job: Job) -> None:
    with pytest.raises(UserError) as caught:
        job(perfect(8))
    assert caught.value.field == "hookpoints"


@pytest.mark.parametrize(
    ("instruction", "outcome"),
    [(Pause(id=uuid4(), ts=0), "paused"), (Stop(id=uuid4(), ts=0), "stopped"), (Terminated(), "stopped")],
)
def test_it_ends_when_it_is_told_to(job: Job, instruction: Instruction, outcome: str) -> None:
    run = job(perfect(12), script=lambda run: [instruction])
    assert run.finished.outcome == outcome
    assert [(answer, asked) for answer, asked, _ in run.answers] == [("applied", instruction)]


def at_poll(number: int, instruction: Instruction) -> Callable[[RecordingRun], list[Instruction]]:
    polls = iter(range(1, 10_000))
    return lambda run: [instruction] if next(polls) == number else []


def polls_of(job: Job, **changes: object) -> tuple[RecordingRun, int]:
    """A run that nobody disturbs, and how often it looked for commands: once a pass of the language model."""
    polls: list[None] = []
    run = job(drawn(12), "layers.1", script=lambda run: polls.append(None) or [], name="whole", **changes)  # type: ignore[func-returns-value]
    return run, len(polls)


def drawn(width: int) -> DeployedSae:
    weights = torch.randn(2 * width, width, generator=torch.Generator().manual_seed(2))
    return DeployedSae("standard", weights, weights.clone() / 9, torch.zeros(width), b_enc_F=torch.zeros(2 * width))


def results_of(run: RecordingRun) -> dict[str, float]:
    return {name: value for name, value in run.finished.results.items() if name != "wall_time_s"}


@pytest.mark.parametrize("instruction", [Pause(id=uuid4(), ts=0), Terminated()], ids=["pause", "terminated"])
def test_a_paused_one_goes_on_to_the_same_figures_without_doing_anything_again(
    job: Job, instruction: Instruction
) -> None:
    whole, passes = polls_of(job)
    for done in {1, passes // 3, passes // 2, passes // 2 + 1, passes - 1}:
        halted = job(drawn(12), "layers.1", script=at_poll(done, instruction), name=f"halted_{done}")
        [saved] = halted.of(CheckpointSaved)
        counted: list[None] = []
        resumed = job(
            drawn(12),
            "layers.1",
            script=lambda run, counted=counted: counted.append(None) or [],
            name=f"resumed_{done}",
            resume_from=halted.checkpoints / saved.name,
        )
        assert results_of(resumed) == results_of(whole)
        assert len(counted) == passes - done
        assert resumed.of(Progress)[-1].done == whole.of(Progress)[-1].done


def test_paused_twice_it_still_goes_on(job: Job) -> None:
    whole, passes = polls_of(job)
    pause = Pause(id=uuid4(), ts=0)
    place = None
    for name, after in (("first", passes // 3), ("second", passes // 3)):
        halted = job(drawn(12), "layers.1", script=at_poll(after, pause), name=name, resume_from=place)
        place = halted.checkpoints / halted.of(CheckpointSaved)[0].name
    assert results_of(job(drawn(12), "layers.1", name="third", resume_from=place)) == results_of(whole)


def test_what_was_found_of_another_autoencoder_or_is_torn_is_not_gone_on_with(job: Job) -> None:
    whole, _ = polls_of(job)
    halted = job(silent(12), "layers.1", script=at_poll(3, Pause(id=uuid4(), ts=0)), name="halted")
    place = halted.checkpoints / halted.of(CheckpointSaved)[0].name
    other = job(drawn(12), "layers.1", name="other", resume_from=place)
    (place / "sums.safetensors").write_bytes(b"torn")
    torn = job(drawn(12), "layers.1", name="torn", resume_from=place)
    for run, reason in ((other, "sae changed"), (torn, "not what was written")):
        assert results_of(run) == results_of(whole)
        assert any(level == "warning" and reason in text and "beginning anew" in text for level, text in run.lines)


def test_one_that_is_stopped_leaves_nothing_to_go_on_from(job: Job) -> None:
    run = job(perfect(12), script=at_poll(2, Stop(id=uuid4(), ts=0)))
    assert list(run.checkpoints.iterdir()) == []


def test_what_a_training_left_tells_its_hookpoint(gpt2: Path, corpus: Path, tmp_path: Path) -> None:
    about = {
        "model": str(gpt2), "dataset": str(corpus), "held_out_tokens": 200, "context_length": 16, "device": "cpu",
    }  # fmt: skip
    inputs = {"model": str(gpt2), "dataset": str(corpus)}
    training = RecordingRun(tmp_path / "training", inputs)
    shape = {"hookpoint": "layers.1", "k": 3, "expansion_factor": 2, "steps": 20, "batch_size": 64, "lr": 1e-3}
    train(TrainSaeParams.model_validate(about | shape | {"keep_every_steps": None}), training)
    run = RecordingRun(tmp_path / "run", inputs | {"sae": str(training.artifacts)})
    main(EvaluateSaeParams.model_validate(about | {"sae": "job:some"}), run)
    assert run.finished.results["fvu"] == pytest.approx(training.finished.results["fvu"], rel=0.02)
    assert run.finished.results["predicted_tokens"] > 0
