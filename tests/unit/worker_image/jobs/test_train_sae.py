"""The train_sae job: resume is exact, commands take effect at a batch boundary, results are what they claim."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.worker_image.recording import RecordingRun
from worker_image.contract.commands import (
    AppliedChange,
    CheckpointNow,
    ParameterValue,
    Pause,
    SetLearningRate,
    SetParameters,
    Stop,
    Validate,
)
from worker_image.contract.events import ArtifactSaved, CheckpointRemoved, CheckpointSaved, Metrics, Progress
from worker_image.contract.jobs import TrainSaeParams
from worker_image.errors import OutOfGpuMemory, UserError
from worker_image.jobs.train_sae import main, memory, summary
from worker_image.jobs.train_sae.checkpoints import Checkpoints
from worker_image.jobs.train_sae.learner import Learner
from worker_image.lm.cache import ActivationCache, CacheFull
from worker_image.reporter import Instruction, Terminated
from worker_image.sae.checkpoint import checkpoints_in, load_checkpoint
from worker_image.sae.model import Output, Sae
from worker_image.sae.trainer import StepOutcome, Trainer

UNUSED_K = TrainSaeParams.model_fields["k"].default
"""Families that do not count refuse any other."""
Script = Callable[[RecordingRun], list[Instruction]]
Job = Callable[..., RecordingRun]


@pytest.fixture
def job(bert: Path, corpus: Path, tmp_path: Path) -> Job:
    """Runs a small job; keyword arguments change its parameters."""

    def run_job(
        name: str = "run",
        script: Script = lambda run: [],
        resume_from: Path | None = None,
        changes: tuple[AppliedChange, ...] = (),
        *,
        one_cache: bool = False,
        **different: object,
    ) -> RecordingRun:
        defaults: dict[str, object] = {
            "model": str(bert),
            "dataset": str(corpus),
            "hookpoint": "layers.1",
            "k": 2,
            "expansion_factor": 2,
            "steps": 30,
            "batch_size": 64,
            "held_out_tokens": 128,
            "log_every_steps": 1,
            "context_length": 16,
            "lr": 1e-2,
            "dead_after_tokens": 500,
            "device": "cpu",
        }
        params = TrainSaeParams.model_validate(defaults | different)
        run = RecordingRun(tmp_path / name, {"model": params.model, "dataset": params.dataset}, script, resume_from)
        run.changes = changes
        if one_cache:
            run.cache = tmp_path / "cache"
        main(params, run)
        return run

    return run_job


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """As many of torch's as the test asks for."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def steps_done(run: RecordingRun) -> int:
    return max((event.step for event in run.of(Metrics)), default=0)


def reports(run: RecordingRun) -> list[Metrics]:
    """What was measured while training; the held-out figures come in events of their own."""
    return [event for event in run.of(Metrics) if "loss" in event.values]


def once_at(step: int, *instructions: Instruction) -> Script:
    """Give the instructions at the first batch boundary at or after ``step``."""
    pending = list(instructions)

    def script(run: RecordingRun) -> list[Instruction]:
        if steps_done(run) < step:
            return []
        given = list(pending)
        pending.clear()
        return given

    return script


def pause() -> Pause:
    return Pause(id=uuid4(), ts=0)


def weights(run: RecordingRun) -> dict[str, torch.Tensor]:
    return load_file(run.artifacts / "sae.safetensors")


def assert_same_weights(one: RecordingRun, other: RecordingRun) -> None:
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name


SOURCES = pytest.mark.parametrize(
    "source",
    [
        {"cache": "on"},
        {"cache": "on", "buffer_tokens": 300, "prefetch": "on", "activation_dtype": "bfloat16"},
        {"cache": "off"},
        {"cache": "off", "buffer_tokens": 300, "normalisation": "standardise"},
        {"cache": "off", "buffer_tokens": 300, "prefetch": "on", "packing": True},
    ],
    ids=["cached", "cached, windows, ahead", "one buffer", "buffers", "buffers, ahead, packed"],
)


@SOURCES
def test_a_resumed_job_ends_bit_for_bit_as_an_uninterrupted_one(job: Job, source: dict[str, object]) -> None:
    whole = job("whole", **source)
    paused = job("paused", once_at(17, pause()), **source)
    assert paused.finished.outcome == "paused"
    resumed = job("resumed", resume_from=paused.checkpoints / "step_17", **source)
    assert_same_weights(whole, resumed)
    losses = {event.step: event.values["loss"] for event in reports(whole)}
    assert [event.values["loss"] for event in reports(resumed)] == [losses[step] for step in range(18, 31)]


def test_fetching_ahead_changes_nothing_but_the_time(job: Job) -> None:
    source = {"cache": "off", "buffer_tokens": 300}
    assert_same_weights(job("ahead", prefetch="on", **source), job("in turn", prefetch="off", **source))


@pytest.fixture
def filled_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room when the cache is looked at, and none any more when something is to be written."""

    def full(self: ActivationCache, n_bytes: int) -> None:
        raise CacheFull("cache", "the activation cache has no room", "set cache to off")

    monkeypatch.setattr(ActivationCache, "_make_room", full)


@pytest.mark.usefixtures("filled_by_others")
def test_a_job_whose_cache_others_fill_harvests_as_it_goes_and_says_so(job: Job) -> None:
    without = job("without", cache="off")
    run = job("full", cache="auto")
    assert_same_weights(without, run)
    (said,) = [text for level, text in run.lines if level == "warning"]
    assert "no room" in said
    assert "as training goes" in said


@pytest.mark.usefixtures("filled_by_others")
def test_a_job_that_insists_on_the_cache_fails_when_others_fill_it(job: Job) -> None:
    with pytest.raises(CacheFull):
        job(cache="on")


def test_a_job_that_has_learned_from_a_cache_that_is_lost_and_filled_by_others_is_told_what_to_do(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run has a cache of its own here."""
    paused = job("paused", once_at(5, pause()), cache="auto")

    def full(self: ActivationCache, n_bytes: int) -> None:
        raise CacheFull("cache", "the activation cache has no room", "raise SAEFORGE_ACTIVATION_CACHE_MB")

    monkeypatch.setattr(ActivationCache, "_make_room", full)
    with pytest.raises(CacheFull) as caught:
        job("resumed", resume_from=checkpoints_in(paused.checkpoints)[-1], cache="auto")
    assert (caught.value.field, caught.value.suggestion) == ("cache", "raise SAEFORGE_ACTIVATION_CACHE_MB")


def test_memory_that_is_needed_in_the_caches_stead_is_looked_at_first(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_out = False

    def left() -> int:
        return 1000 if run_out else 10**10

    def full(self: ActivationCache, n_bytes: int) -> None:
        nonlocal run_out
        run_out = True
        raise CacheFull("cache", "the activation cache has no room", "set cache to off")

    monkeypatch.setattr(ActivationCache, "_make_room", full)
    monkeypatch.setattr(memory, "available_bytes", left)
    with pytest.raises(UserError, match="of memory are needed to buffer activations") as caught:
        job(cache="auto")
    assert caught.value.field == "buffer_tokens"


def test_the_share_of_time_that_training_waited_is_measured(job: Job) -> None:
    shares = [event.values["stall_share"] for event in reports(job(cache="off", buffer_tokens=300))]
    assert all(0 <= share < 1 for share in shares)
    assert shares[-1] > 0


def test_several_autoencoders_learn_from_one_stream_as_each_would_alone(job: Job) -> None:
    both = job("both", grid={"k": [1, 2], "family": ["topk", "standard"]})
    alone = {"sae_0": job("k1", k=1), "sae_1": job("standard", family="standard", k=UNUSED_K), "sae_2": job("k2", k=2)}
    for folder, run in alone.items():
        found, wanted = load_file(both.artifacts / folder / "sae.safetensors"), weights(run)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), folder
    results = both.finished.results
    assert results["fvu/2"] == alone["sae_2"].finished.results["fvu"]
    assert results["fvu"] == pytest.approx(sum(results[f"fvu/{index}"] for index in range(3)) / 3)


@pytest.mark.parametrize(
    ("threads", "families"),
    [
        (1, ["topk", "batch_topk", "jumprelu", "gated", "standard", "matryoshka"]),
        (2, ["topk", "batch_topk", "matryoshka"]),
    ],
    indirect=["threads"],
    ids=["in turns", "abreast"],
)
@pytest.mark.usefixtures("threads")
def test_several_autoencoders_are_resumed_bit_for_bit(job: Job, families: list[str]) -> None:
    grid = {"family": families}
    whole = job("whole", grid=grid)
    halted = job("halted", script=once_at(13, pause()), grid=grid)
    resumed = job("resumed", resume_from=halted.checkpoints / "step_13", grid=grid)
    for index in range(len(families)):
        name = f"sae_{index}/sae.safetensors"
        found, wanted = load_file(resumed.artifacts / name), load_file(whole.artifacts / name)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), index


@pytest.mark.parametrize(
    "wiring",
    [
        {"target_hookpoint": "layers.2"},
        {"hookpoint": "layers.1.intermediate:in", "target_hookpoint": "layers.1.output", "skip_connection": True},
        {"crosscoder_hookpoints": ["layers.0", "layers.2"]},
    ],
    ids=["transcoder", "skip transcoder", "crosscoder"],
)
@pytest.mark.parametrize("cache", ["on", "off"])
def test_other_wirings_train_from_either_source(job: Job, cache: str, wiring: dict[str, object]) -> None:
    results = job(cache=cache, normalisation="standardise", **wiring).finished.results
    assert 0 < results["fvu"] < 1


def test_a_run_tells_how_fast_it_goes_and_how_much_is_left(job: Job) -> None:
    last = [event.values for event in job().of(Metrics) if "tokens_left" in event.values][-1]
    assert (last["tokens_trained"], last["tokens_left"]) == (30 * 64, 0)
    assert 0 < last["tokens_per_s_average"] <= last["tokens_per_s_peak"]


def test_gradient_statistics_come_at_their_own_steps(job: Job) -> None:
    run = job(gradient_statistics_every_steps=7, log_every_steps=10)
    assert [event.step for event in run.of(Metrics) if "grad/W_enc_FD/l2" in event.values] == [7, 14, 21, 28]


def test_a_lost_step_is_skipped_where_there_is_patience(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def losing(self: Trainer, x: torch.Tensor, y: torch.Tensor | None = None, *, measure: bool = False) -> StepOutcome:
        return learn(self, x * torch.nan if self.step == 7 else x, y, measure=measure)

    learn = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", losing)
    run = job()
    assert run.finished.outcome == "completed"
    assert ("warning", "step 8 was skipped: its loss or a gradient is not finite") in run.lines


def test_after_ten_lost_steps_in_a_row_training_ends_at_once(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losing(self: Trainer, x: torch.Tensor, y: torch.Tensor | None = None, *, measure: bool = False) -> StepOutcome:
        return learn(self, x * torch.nan if self.step >= 7 else x, y, measure=measure)

    learn = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", losing)
    with pytest.raises(UserError, match=r"no longer finite at step 18, after 11 steps in a row that were skipped"):
        job(log_every_steps=30, checkpoint_every_steps=5)
    # What was skipped did no harm: they can be continued from.
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} >= {"step_5", "step_15", "anomaly_18"}


@pytest.mark.parametrize("every", [8, None])
def test_weights_that_were_lost_in_a_step_of_finite_loss_are_no_checkpoint_to_continue_from(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int | None
) -> None:
    def losing(self: Trainer, x: torch.Tensor, y: torch.Tensor | None = None, *, measure: bool = False) -> StepOutcome:
        hook = self.sae.W_dec_FE.register_hook(lambda gradient: gradient * (torch.inf if self.step == 7 else 1))
        try:
            return learn(self, x, y, measure=measure)
        finally:
            hook.remove()

    learn = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", losing)
    with pytest.raises(UserError, match=r"parameter W_dec_FE is no longer finite at step 8"):
        job(script=once_at(8, pause()), checkpoint_every_steps=every, nan_patience=0)
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"anomaly_8"}


def test_a_rehearsal_that_does_not_fit_costs_only_the_time_it_foretells(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def no_room(self: Trainer, x_BD: torch.Tensor, *_: object) -> None:
        tried.append(len(x_BD))
        raise torch.cuda.OutOfMemoryError("no room")

    monkeypatch.setattr(Trainer, "rehearse", no_room)
    assert job(cache="off").finished.outcome == "completed"
    assert tried == [64]


@pytest.mark.parametrize("where", ["evaluate", "evaluate_deployed", "centre"])
def test_gpu_memory_that_runs_out_beside_training_is_told_with_what_was_reckoned_with(
    job: Job, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def no_room(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("no room")

    monkeypatch.setattr(Learner, where, no_room)
    with pytest.raises(OutOfGpuMemory, match="reckoned with") as caught:
        job()
    assert caught.value.field == "batch_size"


def test_a_checkpoint_lost_beside_the_error_that_ends_training_is_logged(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_disk(*_: object) -> None:
        raise OSError("no disk")

    runs: list[RecordingRun] = []

    def breaking(run: RecordingRun) -> list[Instruction]:
        runs.append(run)
        monkeypatch.setattr(Checkpoints, "settle", no_disk)
        raise ArithmeticError("what ended it")

    with pytest.raises(ArithmeticError):
        job(script=breaking)
    assert ("warning", "no checkpoint could be written of step 0: no disk") in runs[0].lines


class Broke(Exception):
    """What a test lets go wrong."""


def breaking_at(step: int, runs: list[RecordingRun]) -> Script:
    """Fail between two steps."""

    def script(run: RecordingRun) -> list[Instruction]:
        runs.append(run)
        if steps_done(run) == step:
            raise Broke
        return []

    return script


@pytest.mark.parametrize("source", [{"cache": "on"}, {"cache": "off", "buffer_tokens": 300, "prefetch": "on"}])
def test_an_error_between_two_steps_costs_no_step(job: Job, source: dict[str, object]) -> None:
    whole, runs = job("whole", **source), list[RecordingRun]()
    with pytest.raises(Broke):
        job("broken", breaking_at(7, runs), **source)
    [kept] = runs[-1].of(CheckpointSaved)
    assert (kept.name, kept.reason) == ("step_7", "error")
    assert_same_weights(whole, job("resumed", resume_from=runs[-1].checkpoints / "step_7", **source))


def test_an_error_in_the_middle_of_a_step_leaves_no_checkpoint_of_half_of_it(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(learner: Learner, *given: object, **options: object) -> object:
        if learner.trainer.step == 7:
            raise Broke
        return train_step(learner, *given, **options)

    train_step, runs = Learner.train_step, list[RecordingRun]()
    monkeypatch.setattr(Learner, "train_step", broken)
    with pytest.raises(Broke):
        job("broken", breaking_at(-1, runs), checkpoint_every_steps=5)
    assert [(saved.name, saved.reason) for saved in runs[-1].of(CheckpointSaved)] == [("step_5", "interval")]


def test_an_error_before_any_further_step_is_no_progress(job: Job) -> None:
    paused, runs = job("paused", once_at(5, pause())), list[RecordingRun]()
    with pytest.raises(Broke):
        job("broken", breaking_at(0, runs), resume_from=paused.checkpoints / "step_5")
    assert not runs[-1].of(CheckpointSaved)


def test_held_out_tokens_are_measured_in_the_parts_that_training_came_down_to(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(self: Sae, x_BD: torch.Tensor, **how: Any) -> Output:
        if len(x_BD) > 16:
            raise torch.cuda.OutOfMemoryError("no room")
        return forward(self, x_BD, **how)

    forward = Sae.forward
    monkeypatch.setattr(Sae, "forward", short)
    run = job(checkpoint_every_steps=10, micro_batch_size=32)
    assert run.finished.outcome == "completed"
    assert any("16 of 64 tokens" in text for level, text in run.lines if level == "warning")


def test_the_same_seed_gives_the_same_weights_and_another_does_not(job: Job) -> None:
    first, second, third = job("first"), job("second"), job("third", seed=1)
    assert_same_weights(first, second)
    assert not torch.equal(weights(first)["W_dec_FE"], weights(third)["W_dec_FE"])


def test_pausing_writes_a_checkpoint_and_answers(job: Job) -> None:
    command = pause()
    run = job(script=once_at(5, command))
    [saved] = run.of(CheckpointSaved)
    assert (saved.name, saved.step, saved.reason) == ("step_5", 5, "pause")
    assert [(answer, asked) for answer, asked, _ in run.answers] == [("applied", command)]
    assert not run.of(ArtifactSaved)


def test_stopping_writes_a_checkpoint_and_the_artifacts_so_far(job: Job) -> None:
    run = job(script=once_at(5, Stop(id=uuid4(), ts=0)))
    assert run.finished.outcome == "stopped"
    assert [saved.reason for saved in run.of(CheckpointSaved)] == ["stop"]
    left = {"sae.safetensors", "cfg.json", "metrics.json", "report.md"}
    left |= {"saelens/sae_weights.safetensors", "saelens/cfg.json"}
    assert {event.path for event in run.of(ArtifactSaved)} == left
    assert run.finished.results["steps"] == 5
    assert run.finished.results["fvu"] > 0


def test_sigterm_checkpoints_without_taking_time_for_artifacts(job: Job) -> None:
    run = job(script=once_at(5, Terminated()))
    assert run.finished.outcome == "stopped"
    assert [saved.name for saved in run.of(CheckpointSaved)] == ["step_5"]
    assert not run.of(ArtifactSaved)


def test_a_checkpoint_on_demand_does_not_end_training(job: Job) -> None:
    run = job(script=once_at(5, CheckpointNow(id=uuid4(), ts=0)))
    assert [(saved.name, saved.reason) for saved in run.of(CheckpointSaved)] == [
        ("step_5", "command"),
        ("step_30", "final"),
    ]
    assert run.finished.outcome == "completed"
    assert [answer for answer, _, _ in run.answers] == ["applied"]


def test_a_step_that_is_saved_already_is_announced_again_and_not_written_again(job: Job) -> None:
    run = job(script=once_at(5, pause()), checkpoint_every_steps=5)
    interval, paused = run.of(CheckpointSaved)
    assert [(saved.name, saved.reason) for saved in (interval, paused)] == [("step_5", "interval"), ("step_5", "pause")]
    # Each writing notes the time it took to get there, so another one would have another digest.
    assert interval.digest == paused.digest


def test_a_learning_rate_set_after_a_step_was_saved_is_saved_too(job: Job) -> None:
    run = job(script=once_at(5, SetLearningRate(id=uuid4(), ts=0, lr=1e-3), pause()), checkpoint_every_steps=5)
    assert [saved.name for saved in run.of(CheckpointSaved)] == ["step_5", "step_5"]
    assert load_checkpoint(run.checkpoints / "step_5").saes[0].values["peak_lr"] == 1e-3


def test_a_new_learning_rate_counts_from_the_next_step_and_scales_the_schedule(job: Job) -> None:
    run = job(script=once_at(5, SetLearningRate(id=uuid4(), ts=0, lr=1e-3)), lr_schedule="linear", decay_fraction=0.1)
    rates = [event.values["lr"] for event in reports(run)]
    assert rates == pytest.approx([1e-2] * 5 + [1e-3] * 22 + [7.5e-4, 5e-4, 2.5e-4])


def test_a_new_learning_rate_survives_a_resume(job: Job) -> None:
    paused = job("paused", once_at(5, SetLearningRate(id=uuid4(), ts=0, lr=1e-3), pause()))
    resumed = job("resumed", resume_from=paused.checkpoints / "step_5")
    assert reports(resumed)[0].values["lr"] == 1e-3


def test_what_is_asked_after_a_pause_is_refused(job: Job) -> None:
    run = job(script=once_at(5, pause(), CheckpointNow(id=uuid4(), ts=0)))
    assert [(answer, asked.type) for answer, asked, _ in run.answers] == [
        ("rejected", "checkpoint"),
        ("applied", "pause"),
    ]


@pytest.mark.parametrize(
    ("instruction", "outcome"),
    [(pause(), "paused"), (Stop(id=uuid4(), ts=0), "stopped"), (Terminated(), "stopped")],
)
def test_ending_while_harvesting_leaves_a_checkpoint_at_step_zero(
    job: Job, instruction: Instruction, outcome: str
) -> None:
    run = job("early", lambda _: [instruction])
    assert run.finished.outcome == outcome
    assert [saved.name for saved in run.of(CheckpointSaved)] == ["step_0"]
    assert not run.of(ArtifactSaved)
    assert_same_weights(job("resumed", resume_from=run.checkpoints / "step_0"), job("whole"))


def test_checkpoints_come_at_their_interval_and_the_first_the_best_and_the_newest_stay(job: Job) -> None:
    run = job(checkpoint_every_steps=5, keep_checkpoints=2)
    saved = run.of(CheckpointSaved)
    assert [(one.name, one.reason) for one in saved] == [
        *((f"step_{step}", "interval") for step in (5, 10, 15, 20, 25)),
        ("step_30", "final"),
    ]
    best = min(saved, key=lambda one: one.held_out_loss or 1)
    left = {"step_5", "step_25", "step_30", best.name}
    assert {path.name for path in run.checkpoints.iterdir()} == left
    assert {one.name for one in run.of(CheckpointRemoved)} == {one.name for one in saved} - left


def test_checkpoints_at_round_steps_stay(job: Job) -> None:
    run = job(checkpoint_every_steps=4, keep_checkpoints=1, keep_every_steps=8)
    assert {"step_4", "step_8", "step_16", "step_24", "step_30"} <= {path.name for path in run.checkpoints.iterdir()}
    assert {"step_12", "step_20"} & {one.name for one in run.of(CheckpointRemoved)}


def test_a_checkpoint_at_an_interval_is_measured_on_held_out_tokens(job: Job) -> None:
    run = job(checkpoint_every_steps=10)
    measured = {event.step: event.values for event in run.of(Metrics) if "val_fvu" in event.values}
    assert list(measured) == [10, 20, 30]
    assert {one.step: one.held_out_loss for one in run.of(CheckpointSaved)} == {
        step: values["val_loss"] for step, values in measured.items()
    }
    assert measured[30]["val_fvu"] == run.finished.results["fvu"]


def test_measuring_on_held_out_tokens_changes_nothing(job: Job) -> None:
    asked = job("asked", once_at(5, Validate(id=uuid4(), ts=0)), checkpoint_every_steps=None)
    assert [answer for answer, _, _ in asked.answers] == ["applied"]
    assert [event.step for event in asked.of(Metrics) if "val_fvu" in event.values] == [5, 30]
    assert_same_weights(asked, job("not asked"))


def test_validation_asked_for_before_there_is_anything_to_measure_is_refused(job: Job) -> None:
    command = Validate(id=uuid4(), ts=0)
    run = job(script=once_at(0, command))
    assert [(answer, asked) for answer, asked, _ in run.answers] == [("rejected", command)]


def test_metrics_come_every_log_interval_and_at_the_end(job: Job) -> None:
    run = job(log_every_steps=7)
    assert [event.step for event in reports(run)] == [7, 14, 21, 28, 30]
    wanted = {"loss", "fvu", "auxk_loss", "l0", "dead_latents", "dead_share", "lr", "tokens_per_s", "grad_norm"}
    assert all(wanted <= event.values.keys() for event in reports(run))


def test_progress_counts_every_harvested_token_and_every_step(job: Job) -> None:
    run = job(max_tokens=400, cache="off")
    harvesting = [event for event in run.of(Progress) if event.phase == "harvesting"][-1]
    assert (harvesting.done, harvesting.total) == (528, 528)
    training = [event for event in run.of(Progress) if event.phase == "training"]
    assert [event.done for event in training] == list(range(1, 31))
    assert training[-1].eta_s == 0


def test_generations_beyond_the_first_are_harvested_as_needed(job: Job) -> None:
    run = job(buffer_tokens=300, cache="off")
    harvesting = [event for event in run.of(Progress) if event.phase == "harvesting"][-1]
    assert (harvesting.done, harvesting.total) == (128 + 30 * 64, 128 + 30 * 64)


def test_the_results_are_in_the_metrics_file(job: Job) -> None:
    run = job()
    metrics = json.loads((run.artifacts / "metrics.json").read_text())
    assert run.finished.results.items() <= metrics.items()
    assert metrics["steps"] == 30
    assert metrics["tokens"] == 30 * 64
    assert metrics["held_out_tokens"] == 128
    assert metrics["alive_latents"] == round((1 - metrics["dead_share"]) * 32)
    assert metrics["explained_variance"] == pytest.approx(1 - metrics["fvu"])
    assert 0 < metrics["l0"] <= 2


@pytest.mark.parametrize("model_dtype", ["bfloat16", "float16"])
def test_the_language_model_may_run_in_half_precision(job: Job, model_dtype: str) -> None:
    assert job(model_dtype=model_dtype).finished.results["fvu"] == pytest.approx(
        job("full").finished.results["fvu"], 0.2
    )


def test_a_causal_model_can_be_trained_on(job: Job, gpt2: Path) -> None:
    assert job(model=str(gpt2), max_tokens=500).finished.outcome == "completed"


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("hookpoint", {"hookpoint": "layers.3"}),
        ("hookpoint", {"hookpoint": "pooler"}),
        ("model", {"model": "/nowhere/model"}),
        ("model", {"model": "some/hub-model"}),
        ("dataset", {"dataset": "/nowhere/data.jsonl"}),
        ("text_field", {"text_field": "body"}),
        ("k", {"k": 33}),
        ("auxk_k", {"auxk_k": 33}),
        ("context_length", {"context_length": 64}),
        ("held_out_tokens", {"held_out_tokens": 100_000}),
        ("max_tokens", {"max_tokens": 63}),
    ],
)
def test_what_cannot_work_is_refused_before_any_work_and_names_the_field(
    job: Job, field: str, changes: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        job(**changes)
    assert caught.value.field == field
    assert caught.value.suggestion
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("field", "figures", "changes"),
    [
        ("buffer_tokens", "activation buffer 1 MiB", {"cache": "off"}),
        ("batch_size", "optimiser moments 2 MiB", {"expansion_factor": 256, "k": 1}),
    ],
)
def test_what_memory_cannot_hold_is_refused_before_harvesting(
    job: Job, monkeypatch: pytest.MonkeyPatch, field: str, figures: str, changes: dict[str, object]
) -> None:
    monkeypatch.setattr("worker_image.jobs.train_sae.memory.available_bytes", lambda: 100_000)
    with pytest.raises(UserError, match=figures) as caught:
        job(**changes)
    assert caught.value.field == field
    assert "raise resources.memory_mb" in (caught.value.suggestion or "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(job: Job) -> None:
    with pytest.raises(UserError, match="no GPU") as caught:
        job(device="cuda")
    assert caught.value.field == "device"


def test_a_checkpoint_that_is_continued_with_another_version_is_told(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    paused = job("paused", once_at(5, pause()))
    alike = job("alike", resume_from=paused.checkpoints / "step_5")
    assert [text for level, text in alike.lines if level == "warning"] == []
    monkeypatch.setattr(summary, "__version__", "0.0.9")
    [told] = [
        text for level, text in job("other", resume_from=paused.checkpoints / "step_5").lines if level == "warning"
    ]
    assert "made with saeforge 0.1.0 (now 0.0.9):" in told


def test_a_corrupt_checkpoint_is_refused(job: Job) -> None:
    paused = job("paused", once_at(3, pause()))
    (paused.checkpoints / "step_3" / "state.json").write_text("{}")
    with pytest.raises(UserError, match="not what was written") as caught:
        job("resumed", resume_from=paused.checkpoints / "step_3")
    assert caught.value.field == "resume_from"


def test_a_checkpoint_of_another_training_is_refused_by_the_parameter_that_differs(job: Job) -> None:
    paused = job("paused", once_at(3, pause()))
    with pytest.raises(UserError, match="k=2, the job says 3") as caught:
        job("resumed", resume_from=paused.checkpoints / "step_3", k=3)
    assert caught.value.field == "k"


def test_a_dataset_that_changed_is_refused(job: Job, corpus: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(corpus.read_bytes())
    paused = job("paused", once_at(3, pause()), dataset=str(copy))
    with copy.open("a") as file:
        file.write('{"text": "word1"}\n')
    with pytest.raises(UserError, match="at the checkpoint") as caught:
        job("resumed", resume_from=paused.checkpoints / "step_3", dataset=str(copy))
    assert caught.value.field == "dataset"


def test_a_loss_that_is_lost_ends_the_job_and_leaves_only_good_checkpoints_to_continue_from(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(self: Trainer, values: object) -> None:
        self.peak_lr = 1e38

    monkeypatch.setattr(Trainer, "reconfigure", spoil)
    folder = tmp_path / "run" / "checkpoints"
    with pytest.raises(UserError, match="no longer finite") as caught:
        job(script=once_at(3, set_lr(0.1)), checkpoint_every_steps=1, keep_checkpoints=100)
    assert caught.value.field == "lr"
    assert f"restart from {checkpoints_in(folder)[-1].name}" in str(caught.value.suggestion)
    assert checkpoints_in(folder)[0].name == "step_1"
    for path in checkpoints_in(folder):
        assert all(tensor.isfinite().all() for tensor in load_checkpoint(path).saes[0].weights.values())
    [anomaly] = folder.glob("anomaly_*")
    assert anomaly.name == "anomaly_4", "weights show it a step before the loss does"


def test_the_report_tells_what_came_out_how_it_went_and_what_was_changed(job: Job) -> None:
    paused = job("paused", once_at(5, change(lr=1e-3), pause()))
    run = job("stopped", once_at(9, Stop(id=uuid4(), ts=0)), resume_from=paused.checkpoints / "step_5")
    [saved] = [event for event in run.of(ArtifactSaved) if event.kind == "report"]
    text = (run.artifacts / saved.path).read_text()
    first = reports(paused)[0].values["loss"]
    assert "stopped early after 9 of 30 steps" in text
    assert f"| loss | {first:.4g} (1) | {reports(run)[-1].values['loss']:.4g} (9) |" in text
    assert "| 5 | lr = 0.001 |" in text
    assert "| lr | 0.01 |" in text
    assert f"| fvu | {run.finished.results['fvu']:.4g} |" in text


# Changes while it runs


def set_lr(lr: float) -> SetLearningRate:
    return SetLearningRate(id=uuid4(), ts=0, lr=lr)


def change(**values: ParameterValue) -> SetParameters:
    return SetParameters(id=uuid4(), ts=0, values=values)


def test_parameters_are_taken_up_from_the_next_step(job: Job) -> None:
    run = job(script=once_at(5, change(lr=1e-3, log_every_steps=5)), decay_fraction=0)
    assert [(event.step, event.values["lr"]) for event in reports(run)] == [
        *((step, 1e-2) for step in range(1, 6)),
        *((step, 1e-3) for step in range(10, 31, 5)),
    ]
    assert [(answer, detail) for answer, _, detail in run.answers] == [
        ("applied", "lr 0.001, log_every_steps 5 from step 6")
    ]


@pytest.mark.parametrize(
    ("values", "why"),
    [({"k": 3}, "k cannot change while"), ({"lr": 7.0}, "lr: "), ({"lr": 1e-3, "steps": 9}, "steps cannot change")],
)
def test_what_cannot_be_taken_up_is_refused_and_nothing_of_it_done(
    job: Job, values: dict[str, ParameterValue], why: str
) -> None:
    run = job(script=once_at(5, change(**values)), decay_fraction=0)
    [(answer, _, reason)] = run.answers
    assert (answer, why in reason) == ("rejected", True)
    assert {event.values["lr"] for event in reports(run)} == {1e-2}


def test_a_change_is_in_force_after_a_resume(job: Job) -> None:
    steered = job("steered", once_at(5, change(auxk_alpha=1.0, log_every_steps=5)))
    paused = job("paused", once_at(5, change(auxk_alpha=1.0, log_every_steps=5), pause()))
    resumed = job("resumed", resume_from=paused.checkpoints / "step_5")
    assert_same_weights(steered, resumed)
    assert [event.step for event in reports(resumed)] == [10, 15, 20, 25, 30]


@pytest.mark.parametrize("source", [{"cache": "on", "one_cache": True}, {"cache": "off"}], ids=["cache", "harvest"])
@pytest.mark.parametrize("saved_at", [0, 5, 8])
def test_changes_made_after_the_checkpoint_are_made_again_at_their_steps(
    job: Job, saved_at: int, source: dict[str, object]
) -> None:
    first, second = change(lr=3e-3), change(lr=1e-3)

    def script(run: RecordingRun) -> list[Instruction]:
        given = {5: [first], 8: [second]}.get(steps_done(run), [])
        return [one for one in given if one not in [asked for _, asked, _ in run.answers]]

    whole = job("whole", script, **source)
    paused = job("paused", lambda run: [pause()] if steps_done(run) == saved_at else script(run), **source)
    changes = tuple(AppliedChange(id=one.id, step=step, values=one.values) for one, step in ((first, 5), (second, 8)))
    resumed = job("resumed", resume_from=paused.checkpoints / f"step_{saved_at}", changes=changes, **source)
    assert_same_weights(whole, resumed)


def test_a_change_that_the_checkpoint_holds_is_not_made_twice(job: Job) -> None:
    first, second = change(lr=3e-3), change(lr=1e-3)
    paused = job("paused", once_at(5, first, second, pause()))
    changes = tuple(AppliedChange(id=one.id, step=5, values=one.values) for one in (second, first))
    resumed = job("resumed", resume_from=paused.checkpoints / "step_5", changes=changes)
    assert reports(resumed)[0].values["lr"] == 1e-3


def test_a_newer_wish_outlasts_a_change_that_is_still_to_be_repeated(job: Job) -> None:
    made_before = AppliedChange(id=uuid4(), step=9, values={"lr": 3e-3})
    run = job(script=once_at(5, change(lr=1e-3)), changes=(made_before,), decay_fraction=0)
    assert reports(run)[-1].values["lr"] == 1e-3


def test_a_job_that_continues_anothers_checkpoint_with_another_rate_trains_at_that(job: Job) -> None:
    paused = job("paused", once_at(5, change(lr=3e-3), pause()), decay_fraction=0)
    resumed = job("resumed", resume_from=paused.checkpoints / "step_5", lr=1e-3, decay_fraction=0)
    assert {event.values["lr"] for event in reports(resumed)} == {1e-3}


def test_a_job_that_continues_anothers_checkpoint_trains_at_its_own_rate_whatever_the_other_was_changed_to(
    job: Job,
) -> None:
    paused = job("other/1", once_at(5, change(lr=3e-3), pause()), decay_fraction=0)
    resumed = job("this/1", resume_from=paused.checkpoints / "step_5", decay_fraction=0)
    assert {event.values["lr"] for event in reports(resumed)} == {1e-2}


@pytest.mark.parametrize(
    "options",
    [
        {"multi_topk": True, "gradient_statistics_every_steps": 10, "auxk_k": 4, "dead_after_tokens": 64},
        {"family": "gated", "k": UNUSED_K, "dead_latents": "ghost", "weights_dtype": "float8_e4m3"},
        {"family": "jumprelu", "k": UNUSED_K},
    ],
    ids=["topk", "gated", "jumprelu"],
)
def test_every_figure_is_explained(job: Job, options: dict[str, object]) -> None:
    run = job(**options)
    page = (Path(__file__).parents[4] / "docs" / "training.md").read_text()
    explained = set(re.findall(r"`([^` ]+)`", page))
    explained |= {f"val_{name}" for name in explained} | {name.rsplit("/", 1)[-1] for name in explained}
    reported = {name for event in run.of(Metrics) for name in event.values} | run.finished.results.keys()
    by_parameter = {name for name in reported if name.startswith(("grad/", "weight/", "val_density/"))}
    assert reported - by_parameter <= explained
    assert {name.rsplit("/", 1)[1] for name in by_parameter if name.startswith("grad/")} <= explained
