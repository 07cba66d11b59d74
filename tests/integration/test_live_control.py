"""Steering a running job over HTTP: parameters with a diff, validation, and what the next attempt is told of it."""

from uuid import UUID

import pytest

from orchestrator.domain import RetryPolicy
from orchestrator.errors import InvalidInput, NotFound, StateConflict
from tests.integration.conftest import Orchestrator
from tests.waiting import until
from worker_image.contract.commands import SetParameters, Validate, command
from worker_image.contract.events import CheckpointSaved, CommandApplied, CommandRejected, Failure, Finished
from worker_image.contract.rundir import RunDir


@pytest.fixture
def running(orchestrator: Orchestrator) -> str:
    job_id = orchestrator.train(retry=RetryPolicy(max_retries=1, backoff_s=0))
    orchestrator.reaches(job_id, "running")
    return job_id


def told(orchestrator: Orchestrator, job_id: str, count: int = 1) -> list[object]:
    path = RunDir(orchestrator.run_of(job_id).spec.run_dir).commands
    until(lambda: len(path.read_bytes().splitlines()) >= count, "the commands are delivered")
    return [command.validate_json(line) for line in path.read_bytes().splitlines()]


def saved(name: str, seq: int, held_out_loss: float | None = None) -> CheckpointSaved:
    step = int(name.partition("_")[2])
    reason = "anomaly" if name.startswith("anomaly") else "interval"
    return CheckpointSaved(
        seq=seq, ts=1, name=name, step=step, held_out_loss=held_out_loss, size_bytes=1, digest="sha256:0", reason=reason
    )


def with_checkpoints(orchestrator: Orchestrator, *checkpoints: CheckpointSaved) -> str:
    """A job that failed and left these."""
    job_id = orchestrator.train()
    run_dir = RunDir(orchestrator.run_of(job_id).spec.run_dir)
    for one in checkpoints:
        (run_dir.checkpoints / one.name).mkdir()
    orchestrator.report(job_id, *checkpoints)
    orchestrator.exit(job_id, 1)
    orchestrator.reaches(job_id, "failed")
    return job_id


def test_what_can_change_is_asked_of_the_job_and_the_rest_is_told_to_want_a_new_one(
    orchestrator: Orchestrator, running: str
) -> None:
    found = orchestrator.client.set_parameters(running, {"auxk_alpha": 0.5, "k": 64, "batch_size": 2048})
    assert [(item.name, item.now, item.wanted, item.applies) for item in found.differences] == [
        ("k", 32, 64, "new_job"),
        ("auxk_alpha", 1 / 32, 0.5, "now"),
    ]
    [asked] = told(orchestrator, running)
    assert isinstance(asked, SetParameters)
    assert (asked.id, asked.values) == (found.command_id, {"auxk_alpha": 0.5})
    assert orchestrator.client.job(running).params["auxk_alpha"] == 1 / 32


def test_a_dry_run_asks_nothing_of_the_job(orchestrator: Orchestrator, running: str) -> None:
    found = orchestrator.client.set_parameters(running, {"auxk_alpha": 0.5}, dry_run=True)
    assert ([item.name for item in found.differences], found.command_id) == (["auxk_alpha"], None)
    assert orchestrator.client.job(running).commands == []


def test_the_difference_is_to_what_is_in_force_and_not_to_what_was_refused(
    orchestrator: Orchestrator, running: str
) -> None:
    ids = [orchestrator.client.set_parameters(running, {"lr": lr}).command_id for lr in (1e-3, 2e-3)]
    first, second = (UUID(str(one)) for one in ids)
    orchestrator.report(
        running,
        CommandApplied(seq=1, ts=1, command_id=first, step=7),
        CommandRejected(seq=2, ts=1, command_id=second, reason="no"),
    )
    until(lambda: orchestrator.client.job(running).commands[-1].status == "rejected", "both are settled")
    assert orchestrator.client.set_parameters(running, {"lr": 1e-3}).differences == []
    [item] = orchestrator.client.set_parameters(running, {"lr": 5e-3}, dry_run=True).differences
    assert item.now == 1e-3


def test_a_value_out_of_range_names_the_field_and_is_not_sent(orchestrator: Orchestrator, running: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        orchestrator.client.set_parameters(running, {"lr": 7})
    assert caught.value.field == "params.lr"
    assert orchestrator.client.job(running).commands == []


def test_a_job_that_has_ended_changes_no_more(orchestrator: Orchestrator) -> None:
    job_id = with_checkpoints(orchestrator)
    with pytest.raises(StateConflict, match="parameters of a job that is failed: its attempt is ending"):
        orchestrator.client.set_parameters(job_id, {"lr": 1e-3})
    assert orchestrator.client.set_parameters(job_id, {"lr": 1e-3}, dry_run=True).differences
    with pytest.raises(StateConflict, match="validate"):
        orchestrator.client.validate(job_id)


def test_validation_is_asked_of_the_job(orchestrator: Orchestrator, running: str) -> None:
    orchestrator.client.validate(running)
    assert isinstance(told(orchestrator, running)[0], Validate)


def test_the_next_attempt_is_told_what_took_effect_and_after_which_step(
    orchestrator: Orchestrator, running: str
) -> None:
    orchestrator.client.set_learning_rate(running, 1e-3)
    orchestrator.client.set_parameters(running, {"auxk_alpha": 0.5})
    orchestrator.client.set_parameters(running, {"auxk_alpha": 0.7})
    first, second, _ = told(orchestrator, running, 3)
    orchestrator.report(
        running,
        CommandApplied(seq=1, ts=1, command_id=first.id, step=3),  # type: ignore[attr-defined]
        CommandApplied(seq=2, ts=1, command_id=second.id, step=9),  # type: ignore[attr-defined]
    )
    until(lambda: orchestrator.client.job(running).commands[1].status == "applied", "they took effect")
    del orchestrator.engine.runs[orchestrator.run_of(running).handle]
    changes = RunDir(orchestrator.run_of(running, 2).spec.run_dir).spec().changes
    assert [(change.step, change.values) for change in changes] == [(3, {"lr": 1e-3}), (9, {"auxk_alpha": 0.5})]


def test_a_job_that_paused_when_it_failed_goes_on_with_what_was_changed_meanwhile(orchestrator: Orchestrator) -> None:
    client = orchestrator.client
    job_id = orchestrator.train(retry=RetryPolicy(max_retries=0, on_failure="pause"))
    orchestrator.reaches(job_id, "running")
    client.set_learning_rate(job_id, 2e-3)
    [rate] = told(orchestrator, job_id)
    run_dir = RunDir(orchestrator.run_of(job_id).spec.run_dir)
    (run_dir.checkpoints / "step_5").mkdir()
    orchestrator.report(job_id, saved("step_5", 1), CommandApplied(seq=2, ts=1, command_id=rate.id, step=9))  # type: ignore[attr-defined]
    until(lambda: client.job(job_id).commands[0].status == "applied", "it took effect")
    failure = Failure(code="internal_error", message="it broke", suggestion="look closer")
    orchestrator.report(job_id, Finished(seq=3, ts=1, outcome="failed", failure=failure))
    orchestrator.exit(job_id, 1)
    orchestrator.reaches(job_id, "paused")
    paused = client.job(job_id)
    assert paused.failure is not None
    assert (paused.failure.message, paused.failure.suggestion) == ("it broke", "look closer")
    assert {"resume", "set_parameters"} <= set(paused.available_actions)

    found = client.set_parameters(job_id, {"lr": 1e-4, "k": 64})
    assert {item.name: item.applies for item in found.differences} == {"lr": "now", "k": "new_job"}
    asked = client.job(job_id).commands[-1]
    assert (asked.id, asked.status, asked.detail) == (found.command_id, "applied", "lr 0.0001 from step 6")
    client.resume(job_id)
    orchestrator.reaches(job_id, "running")
    spec = RunDir(orchestrator.run_of(job_id, 2).spec.run_dir).spec()
    assert str(spec.resume_from).endswith("/step_5")
    assert [(change.step, change.values) for change in spec.changes] == [(5, {"lr": 1e-4})]
    assert client.job(job_id).failure is None


def test_a_job_that_has_not_begun_takes_up_a_change_at_its_first_step(orchestrator: Orchestrator) -> None:
    client = orchestrator.client
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    waiting = orchestrator.train()
    client.pause(waiting)
    client.set_learning_rate(waiting, 1e-4)
    assert [asked.detail for asked in client.job(waiting).commands] == ["lr 0.0001 from step 1"]
    client.resume(waiting)
    client.cancel(job_id)
    orchestrator.reaches(waiting, "running")
    changes = RunDir(orchestrator.run_of(waiting).spec.run_dir).spec().changes
    assert [(change.step, change.values) for change in changes] == [(0, {"lr": 1e-4})]


def test_a_restart_begins_with_what_had_become_of_the_parameters_where_it_continues(orchestrator: Orchestrator) -> None:
    client = orchestrator.client
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    run_dir = RunDir(orchestrator.run_of(job_id).spec.run_dir)
    for seq, name in enumerate(("step_3", "step_5"), 1):
        (run_dir.checkpoints / name).mkdir()
        orchestrator.report(job_id, saved(name, seq))
    client.pause(job_id)
    orchestrator.report(job_id, Finished(seq=3, ts=1, outcome="paused"))
    orchestrator.exit(job_id, 0)
    orchestrator.reaches(job_id, "paused")
    client.set_parameters(job_id, {"lr": 1e-4, "auxk_alpha": 0.5})
    client.stop(job_id)

    again = client.restart(job_id).params
    assert (again["lr"], again["auxk_alpha"]) == (1e-4, 0.5)
    again = client.restart(job_id, params={"lr": None}).params
    assert (again["lr"], again["auxk_alpha"]) == (None, 0.5)
    assert client.restart(job_id, checkpoint="step_3").params == client.job(job_id).params
    assert client.restart(job_id, fresh=True).params == client.job(job_id).params


def test_a_rate_that_differs_between_the_autoencoders_of_a_waiting_job_cannot_change(
    orchestrator: Orchestrator,
) -> None:
    client = orchestrator.client
    orchestrator.reaches(orchestrator.train(), "running")
    params = {"model": "tiny", "dataset": "text", "grid": {"lr": [1e-3, 1e-4]}}
    waiting = orchestrator.submit("train_sae", params=params)
    with pytest.raises(StateConflict, match="lr differs between the autoencoders"):
        client.set_learning_rate(waiting, 1e-4)
    assert client.job(waiting).commands == []


def test_the_best_checkpoint_is_told_and_can_be_continued_from_by_that_name(orchestrator: Orchestrator) -> None:
    job_id = with_checkpoints(orchestrator, saved("step_5", 1, 0.4), saved("step_6", 2, 0.2), saved("step_7", 3, 0.3))
    found = {one.name: (one.held_out_loss, one.best) for one in orchestrator.client.checkpoints(job_id)}
    assert found == {"step_5": (0.4, False), "step_6": (0.2, True), "step_7": (0.3, False)}
    again = orchestrator.client.restart(job_id, checkpoint="best")
    assert str(RunDir(orchestrator.run_of(str(again.id)).spec.run_dir).spec().resume_from).endswith("/step_6")


def test_without_a_measured_checkpoint_there_is_no_best(orchestrator: Orchestrator) -> None:
    job_id = with_checkpoints(orchestrator, saved("step_5", 1))
    with pytest.raises(NotFound, match="best"):
        orchestrator.client.restart(job_id, checkpoint="best")


def test_nothing_continues_from_an_anomaly(orchestrator: Orchestrator) -> None:
    job_id = with_checkpoints(orchestrator, saved("step_5", 1), saved("anomaly_9", 2))
    assert [one.name for one in orchestrator.client.checkpoints(job_id)] == ["anomaly_9", "step_5"]
    again = orchestrator.client.restart(job_id)
    assert str(RunDir(orchestrator.run_of(str(again.id)).spec.run_dir).spec().resume_from).endswith("/step_5")
    with pytest.raises(StateConflict, match="anomaly_9 shows what went wrong"):
        orchestrator.client.restart(job_id, checkpoint="anomaly_9")


def test_a_restart_may_continue_with_a_lower_learning_rate_but_not_with_another_k(orchestrator: Orchestrator) -> None:
    job_id = with_checkpoints(orchestrator, saved("step_5", 1))
    with pytest.raises(InvalidInput, match="from its first step") as caught:
        orchestrator.client.restart(job_id, params={"k": 5})
    assert caught.value.field == "params.k"
    again = orchestrator.client.restart(job_id, params={"lr": 1e-5})
    spec = RunDir(orchestrator.run_of(str(again.id)).spec.run_dir).spec()
    assert (spec.params.model_dump()["lr"], str(spec.resume_from)[-6:]) == (1e-5, "step_5")
    assert orchestrator.client.restart(job_id, params={"k": 5}, fresh=True).params["k"] == 5
