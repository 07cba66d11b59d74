"""A run's checkpoints: when they are due, what is told and when, and what an error does."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import torch

from tests.unit.worker_image.recording import RecordingRun
from worker_image.contract.commands import CheckpointNow
from worker_image.contract.events import CheckpointRemoved, CheckpointSaved
from worker_image.contract.retention import EarlierCheckpoint
from worker_image.contract.train_sae import TrainSaeParams
from worker_image.jobs.train_sae.checkpoints import Checkpoints, Moment
from worker_image.sae.checkpoint import CheckpointState, SaeState, load_checkpoint, save_checkpoint


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run(tmp_path: Path) -> RecordingRun:
    return RecordingRun(tmp_path, {})


@pytest.fixture
def checkpoints(run: RecordingRun, clock: Clock) -> Iterator[Checkpoints]:
    made = Checkpoints(run, clock)
    yield made
    made.close()


def asked(**changes: object) -> TrainSaeParams:
    return TrainSaeParams.model_validate({"model": "tiny", "dataset": "books"} | changes)


def state(step: int, loss: float | None = None) -> Callable[[], CheckpointState]:
    return lambda: CheckpointState(step, (SaeState({"W": torch.ones(2)}),), held_out_loss=loss)


def names(run: RecordingRun) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def test_one_is_due_at_its_steps(checkpoints: Checkpoints) -> None:
    assert [step for step in range(1, 9) if checkpoints.is_due(step, asked(checkpoint_every_steps=4))] == [4, 8]
    assert not checkpoints.is_due(1000, asked(checkpoint_every_steps=None))


def test_one_is_due_when_the_last_is_so_many_minutes_old_whatever_it_was_written_for(
    checkpoints: Checkpoints, clock: Clock
) -> None:
    params = asked(checkpoint_every_steps=None, checkpoint_every_minutes=0.5)
    clock.now = 29
    assert not checkpoints.is_due(1, params)
    clock.now = 30
    assert checkpoints.is_due(1, params)
    checkpoints.save_and_wait(Moment(1, 0), state(1), params, "command")
    clock.now = 59
    assert not checkpoints.is_due(2, params)
    clock.now = 60
    assert checkpoints.is_due(2, params)


def test_a_command_is_answered_once_its_checkpoint_is_on_disk(checkpoints: Checkpoints, run: RecordingRun) -> None:
    command = CheckpointNow(id=uuid4(), ts=0)
    checkpoints.save(Moment(5, 0), state(5), asked(), "command", command)
    assert run.answers == []
    checkpoints.settle(asked())
    assert run.answers == [("applied", command, "step_5 is saved")]
    assert [(one.name, one.reason) for one in run.of(CheckpointSaved)] == [("step_5", "command")]


def test_the_same_moment_is_written_once_and_announced_twice(checkpoints: Checkpoints, run: RecordingRun) -> None:
    checkpoints.save(Moment(5, 0), state(5), asked(), "interval")
    checkpoints.save_and_wait(Moment(5, 0), lambda: pytest.fail("it is there already"), asked(), "pause")
    assert [one.reason for one in run.of(CheckpointSaved)] == ["interval", "pause"]


def test_a_saved_moment_that_was_damaged_since_is_written_again(checkpoints: Checkpoints, run: RecordingRun) -> None:
    checkpoints.save_and_wait(Moment(5, 0), state(5), asked(), "interval")
    (run.checkpoints / "step_5" / "sae_0.safetensors").unlink()
    checkpoints.save_and_wait(Moment(5, 0), state(5), asked(), "pause")
    assert load_checkpoint(run.checkpoints / "step_5").step == 5


def test_a_change_of_parameters_makes_another_moment_of_the_same_step(
    checkpoints: Checkpoints, run: RecordingRun
) -> None:
    checkpoints.save_and_wait(Moment(5, 0), state(5, 0.5), asked(), "interval")
    checkpoints.save_and_wait(Moment(5, 1), state(5, 0.25), asked(), "pause")
    assert [one.held_out_loss for one in run.of(CheckpointSaved)] == [0.5, 0.25]


def test_what_is_deleted_is_told_after_what_replaces_it(checkpoints: Checkpoints, run: RecordingRun) -> None:
    params = asked(keep_checkpoints=1, keep_every_steps=None)
    for step in (1, 2, 3):
        checkpoints.save_and_wait(Moment(step, 0), state(step), params, "interval")
    checkpoints.close()
    kinds = [(type(event), event.name) for event in run.events]  # type: ignore[attr-defined]
    assert kinds[-2:] == [(CheckpointSaved, "step_3"), (CheckpointRemoved, "step_2")]
    assert names(run) == ["step_1", "step_3"]


def test_the_one_it_continues_from_and_the_first_stay_though_others_are_newer(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in (1, 2):
        save_checkpoint(folder, state(step)())
    run = RecordingRun(tmp_path, {}, resume_from=folder / "step_2")
    checkpoints = Checkpoints(run)
    for step in (3, 4):
        params = asked(keep_checkpoints=1, keep_every_steps=None)
        checkpoints.save_and_wait(Moment(step, 0), state(step), params, "interval")
    checkpoints.close()
    assert names(run) == ["step_1", "step_2", "step_4"]


def test_an_anomaly_is_kept_and_never_named_as_one_to_continue_from(
    checkpoints: Checkpoints, run: RecordingRun
) -> None:
    checkpoints.save_and_wait(Moment(1, 0), state(1), asked(), "interval")
    checkpoints.save_and_wait(Moment(2, 0), lambda: CheckpointState(2, (), kind="anomaly"), asked(), "anomaly")
    assert checkpoints.newest == "step_1"
    assert names(run) == ["anomaly_2", "step_1"]


def test_a_loss_that_is_lost_before_the_first_checkpoint_leaves_nothing_to_continue_from(
    checkpoints: Checkpoints,
) -> None:
    name = checkpoints.save_and_wait(Moment(2, 0), lambda: CheckpointState(2, (), kind="anomaly"), asked(), "anomaly")
    assert (name, checkpoints.newest) == ("anomaly_2", None)


def test_an_error_of_writing_shows_at_the_next_batch(checkpoints: Checkpoints, run: RecordingRun) -> None:
    (run.checkpoints / ".step_5.draft").write_text("in the way")
    checkpoints.save(Moment(5, 0), state(5), asked(), "interval")
    with pytest.raises(FileExistsError):
        checkpoints.settle(asked())
    assert not run.of(CheckpointSaved)


def earlier(*steps: int, attempt: int = 1, **losses: float) -> tuple[EarlierCheckpoint, ...]:
    return tuple(
        EarlierCheckpoint(attempt=attempt, step=step, held_out_loss=losses.get(f"at_{step}")) for step in steps
    )


def kept_after(run: RecordingRun, clock: Clock, params: TrainSaeParams, steps: dict[int, float | None]) -> list[str]:
    made = Checkpoints(run, clock)
    for step, loss in steps.items():
        made.save_and_wait(Moment(step, 0), state(step, loss), params, "interval")
    made.close()
    return names(run)


def test_those_of_earlier_attempts_count_as_first_best_and_round_ones(run: RecordingRun, clock: Clock) -> None:
    params = asked(keep_checkpoints=1, keep_every_steps=10, keep_every_at_most=2)
    run.earlier = earlier(5, 10, 20, at_10=0.1)
    # The first is 5, the best 10, and of 20, 30, 40 and 50 those at multiples of 20 stay.
    assert kept_after(run, clock, params, dict.fromkeys((30, 40, 50, 55), 0.5)) == ["step_40", "step_55"]


def test_a_restart_of_another_job_does_not_keep_its_own_first_and_one_in_the_same_folder_does(
    run: RecordingRun, clock: Clock, tmp_path: Path
) -> None:
    params = asked(keep_checkpoints=1, keep_every_steps=None)
    run.resume_from = tmp_path / "other" / "checkpoints" / "step_1"
    assert kept_after(run, clock, params, dict.fromkeys((2, 3, 4))) == ["step_4"]
    run.resume_from = run.checkpoints / "step_4"
    assert kept_after(run, clock, params, dict.fromkeys((5, 6))) == ["step_4", "step_6"]
