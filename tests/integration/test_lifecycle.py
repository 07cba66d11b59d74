"""What becomes of a job between its attempts: retries, making room, changes, and containers that nobody knows."""

import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from orchestrator.domain import Resources, RetryPolicy
from orchestrator.errors import IdempotencyConflict, InvalidInput, NotFound, StateConflict
from orchestrator.executors.base import LaunchSpec, RunState
from orchestrator.executors.fake import FakeEngine, FakeRun
from tests.integration.conftest import Orchestrator
from tests.waiting import until
from worker_image.contract.commands import command
from worker_image.contract.events import CheckpointSaved, CommandApplied, Finished, Progress
from worker_image.contract.rundir import RunDir

AT_ONCE = RetryPolicy(backoff_s=0)


def saved(step: int, seq: int = 1) -> CheckpointSaved:
    return CheckpointSaved(
        seq=seq, ts=1, name=f"step_{step}", step=step, size_bytes=1, digest="sha256:0", reason="interval"
    )


def vanish(orchestrator: Orchestrator, job_id: str, attempt: int = 1) -> None:
    """The container is removed behind the orchestrator's back."""
    run = orchestrator.run_of(job_id, attempt)
    orchestrator.engine.runs.pop(run.handle)


def checkpointed(orchestrator: Orchestrator, job_id: str, step: int, attempt: int = 1) -> Path:
    """The attempt writes a checkpoint; return its directory."""
    path = RunDir(orchestrator.run_of(job_id, attempt).spec.run_dir).checkpoints / f"step_{step}"
    path.mkdir()
    orchestrator.report(job_id, saved(step), attempt=attempt)
    return path


def pause_is_done(orchestrator: Orchestrator, job_id: str, step: int) -> None:
    """The worker does as it was told: a checkpoint, an answer, the end."""
    run_dir = RunDir(orchestrator.run_of(job_id).spec.run_dir)
    until(lambda: run_dir.commands.read_bytes(), "the command is delivered")
    told = command.validate_json(run_dir.commands.read_bytes())
    (run_dir.checkpoints / f"step_{step}").mkdir()
    orchestrator.report(
        job_id,
        CommandApplied(seq=1, ts=1, command_id=told.id),
        saved(step, seq=2),
        Finished(seq=3, ts=1, outcome="paused"),
    )
    orchestrator.exit(job_id)


def test_a_job_whose_container_vanishes_goes_on_from_its_newest_checkpoint(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train(retry=AT_ONCE)
    orchestrator.reaches(job_id, "running")
    checkpoint = checkpointed(orchestrator, job_id, 7)
    vanish(orchestrator, job_id)
    spec = RunDir(orchestrator.run_of(job_id, 2).spec.run_dir).spec()
    assert spec.resume_from == str(checkpoint)
    orchestrator.reaches(job_id, "running")
    assert orchestrator.client.job(job_id).attempt_list[0].end_reason == "lost"


def test_a_job_that_is_lost_again_and_again_fails_after_its_retries(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit(retry=RetryPolicy(max_retries=2, backoff_s=0))
    for attempt in (1, 2, 3):
        vanish(orchestrator, job_id, attempt)
    orchestrator.reaches(job_id, "failed")
    job = orchestrator.client.job(job_id)
    assert (job.attempts, job.retries) == (3, 2)
    assert job.failure is not None
    assert job.failure.reason == "lost"


def test_a_job_that_is_lost_again_and_again_where_it_began_fails_though_it_saves_that_each_time(
    orchestrator: Orchestrator,
) -> None:
    job_id = orchestrator.train(retry=RetryPolicy(max_retries=1, backoff_s=0))
    for attempt in (1, 2):
        checkpointed(orchestrator, job_id, 7, attempt)
        vanish(orchestrator, job_id, attempt)
    orchestrator.reaches(job_id, "failed")
    assert orchestrator.client.job(job_id).attempts == 2


def test_a_job_that_fails_by_its_own_fault_is_not_tried_again(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit(retry=AT_ONCE)
    orchestrator.exit(job_id, 3)
    orchestrator.reaches(job_id, "failed")
    assert orchestrator.client.job(job_id).attempts == 1


def test_a_retried_job_that_completes_keeps_no_failure(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit(retry=AT_ONCE)
    vanish(orchestrator, job_id)
    orchestrator.run_of(job_id, 2)
    assert orchestrator.client.job(job_id).failure is not None
    orchestrator.exit(job_id, 0, attempt=2)
    orchestrator.reaches(job_id, "completed")
    assert orchestrator.client.job(job_id).failure is None


def failed_with_checkpoints(orchestrator: Orchestrator, *steps: int) -> str:
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    folder = RunDir(orchestrator.run_of(job_id).spec.run_dir).checkpoints
    for seq, step in enumerate(steps, start=1):
        (folder / f"step_{step}").mkdir()
        orchestrator.report(job_id, saved(step, seq))
    orchestrator.exit(job_id, 1)
    orchestrator.reaches(job_id, "failed")
    return job_id


def test_a_job_is_restarted_from_the_checkpoint_that_is_named(orchestrator: Orchestrator) -> None:
    job_id = failed_with_checkpoints(orchestrator, 5, 7)
    again = orchestrator.client.restart(job_id, checkpoint="step_5")
    spec = RunDir(orchestrator.run_of(str(again.id)).spec.run_dir).spec()
    assert spec.resume_from is not None
    assert spec.resume_from.endswith("step_5")
    with pytest.raises(NotFound, match="step_6"):
        orchestrator.client.restart(job_id, checkpoint="step_6")


def test_a_checkpoint_that_nothing_needs_is_deleted(orchestrator: Orchestrator) -> None:
    job_id = failed_with_checkpoints(orchestrator, 5, 7)
    path = Path(orchestrator.client.checkpoints(job_id)[-1].path)
    orchestrator.client.delete_checkpoint(job_id, "step_5")
    assert not path.exists()
    assert [item.name for item in orchestrator.client.checkpoints(job_id)] == ["step_7"]


def test_a_checkpoint_that_a_job_continues_from_stays(orchestrator: Orchestrator) -> None:
    job_id = failed_with_checkpoints(orchestrator, 5)
    again = str(orchestrator.client.restart(job_id).id)
    orchestrator.reaches(again, "running")
    with pytest.raises(StateConflict, match=again):
        orchestrator.client.delete_checkpoint(job_id, "step_5")


def test_a_running_job_looks_after_its_checkpoints_itself(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    checkpointed(orchestrator, job_id, 5)
    until(lambda: orchestrator.client.checkpoints(job_id), "the checkpoint is known")
    with pytest.raises(StateConflict, match="its worker looks after"):
        orchestrator.client.delete_checkpoint(job_id, "step_5")


def test_a_job_makes_room_and_waits_for_its_turn_again(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    orchestrator.does(orchestrator.state.scheduler.preempt(UUID(job_id), uuid4()))
    assert orchestrator.status(job_id) == "pausing"
    pause_is_done(orchestrator, job_id, 7)
    spec = RunDir(orchestrator.run_of(job_id, 2).spec.run_dir).spec()
    assert spec.resume_from is not None
    assert spec.resume_from.endswith("step_7")
    assert orchestrator.client.job(job_id).retries == 0


def test_a_pause_outweighs_making_room(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    orchestrator.does(orchestrator.state.scheduler.preempt(UUID(job_id), uuid4()))
    orchestrator.client.pause(job_id)
    pause_is_done(orchestrator, job_id, 7)
    orchestrator.reaches(job_id, "paused")


def test_a_job_resumed_while_it_pauses_goes_on(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    orchestrator.client.pause(job_id)
    orchestrator.client.resume(job_id)
    pause_is_done(orchestrator, job_id, 7)
    orchestrator.run_of(job_id, 2)
    orchestrator.reaches(job_id, "running")


def test_the_image_of_a_waiting_job_is_made_available_before_its_turn(orchestrator: Orchestrator) -> None:
    ahead = orchestrator.submit(resources=Resources(cpus=4))
    orchestrator.reaches(ahead, "running")
    orchestrator.submit(params={"image": "large", "command": ["run"]}, resources=Resources(cpus=4))
    until(lambda: "large" in orchestrator.engine.prepared, "the image is pulled")
    assert orchestrator.status(ahead) == "running"


def test_a_container_of_no_known_job_is_removed_after_a_grace(home: Path, engine: FakeEngine) -> None:
    spec = LaunchSpec(uuid4(), 1, "saeforge-orphan", "busybox", ("run",), home / "runs" / "orphan")
    engine.runs["orphan"] = FakeRun(spec, "orphan")
    kept = Orchestrator.start(home, engine, orphan_grace_s=600)
    try:
        until(lambda: kept.state.scheduler.engine, "the engine was looked at")
        kept.reaches(kept.submit(), "running")
        assert "orphan" in engine.runs
    finally:
        kept.stop()
    impatient = Orchestrator.start(home, engine, orphan_grace_s=0)
    try:
        until(lambda: "orphan" not in engine.runs, "it is removed")
    finally:
        impatient.stop()


def test_a_job_is_renamed_tagged_and_moved_up(orchestrator: Orchestrator) -> None:
    orchestrator.reaches(orchestrator.submit(resources=Resources(cpus=4)), "running")
    job_id = orchestrator.submit(tags=["old"])
    after = orchestrator.client.update(job_id, name="better", tags=["new", "newer"], priority=5)
    assert (after.name, after.tags, after.priority) == ("better", ["new", "newer"], 5)
    assert orchestrator.client.jobs(tag="old").total == 0
    assert orchestrator.client.events(job_id).items[-1].data == {
        "name": "better",
        "tags": ["new", "newer"],
        "priority": 5,
        "by": "machine",
    }


def test_resources_change_only_between_attempts(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    orchestrator.reaches(job_id, "running")
    with pytest.raises(StateConflict, match="between attempts"):
        orchestrator.client.update(job_id, resources=Resources(cpus=2))
    waiting = orchestrator.submit(resources=Resources(cpus=4))
    orchestrator.client.update(waiting, resources=Resources(cpus=1))
    orchestrator.reaches(waiting, "running")


def test_an_ended_job_keeps_its_priority_but_may_be_renamed(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.submit()
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, "completed")
    with pytest.raises(StateConflict, match="it has ended"):
        orchestrator.client.update(job_id, priority=5)
    assert orchestrator.client.update(job_id, name="the good one").name == "the good one"


def test_a_clone_is_a_new_job_with_the_changes(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train(tags=["keep"], priority=3)
    after = orchestrator.client.clone(job_id, params={"k": 16}, name="fewer")
    assert (after.name, after.tags, after.priority, after.params["k"]) == ("fewer", ["keep"], 3, 16)
    assert after.id != UUID(job_id)
    with pytest.raises(InvalidInput) as refused:
        orchestrator.client.clone(job_id, params={"kk": 16})
    assert refused.value.field == "params.kk"


def test_a_restart_that_is_asked_for_again_by_its_key_makes_one_job(orchestrator: Orchestrator) -> None:
    job_id = failed_with_checkpoints(orchestrator, 5)
    first = orchestrator.client.restart(job_id, idempotency_key="once")
    again = orchestrator.client.restart(job_id, idempotency_key="once")
    assert first.id == again.id
    assert orchestrator.client.jobs().total == 2
    with pytest.raises(IdempotencyConflict):
        orchestrator.client.restart(job_id, fresh=True, idempotency_key="once")


def test_a_restart_by_its_key_is_found_again_once_its_checkpoint_is_gone(orchestrator: Orchestrator) -> None:
    job_id = failed_with_checkpoints(orchestrator, 5)
    made = str(orchestrator.client.restart(job_id, checkpoint="step_5", idempotency_key="once").id)
    orchestrator.client.cancel(made)
    orchestrator.reaches(made, "cancelled")
    orchestrator.client.delete_checkpoint(job_id, "step_5")
    assert str(orchestrator.client.restart(job_id, checkpoint="step_5", idempotency_key="once").id) == made


def looked_at(orchestrator: Orchestrator, job_id: str, first: int) -> None:
    """Wait until the supervisor came round twice: what it steers by the first look is done by the second."""

    def done() -> object:
        return (orchestrator.client.job(job_id).progress or {}).get("done")

    for step in (first, first + 1):
        orchestrator.report(job_id, Progress(seq=step, ts=1, phase="training", done=step, total=100, unit="steps"))
        until(lambda step=step: done() == step, f"step {step} is told", done)  # type: ignore[misc]


@pytest.mark.parametrize("set_by_s", [3600, -3600])
def test_a_clock_that_is_set_ends_no_job(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch, set_by_s: int
) -> None:
    job_id = orchestrator.train(resources=Resources(timeout_s=600))
    orchestrator.reaches(job_id, "running")
    orchestrator.client.pause(job_id)
    looked_at(orchestrator, job_id, 1)
    true = time.time
    monkeypatch.setattr("time.time", lambda: true() + set_by_s)
    looked_at(orchestrator, job_id, 3)
    assert orchestrator.run_of(job_id).state is RunState.RUNNING
    orchestrator.report(job_id, saved(6, seq=5), Finished(seq=6, ts=6, outcome="paused"))
    orchestrator.exit(job_id)
    orchestrator.reaches(job_id, "paused")
