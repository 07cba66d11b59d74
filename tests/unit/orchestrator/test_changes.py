"""Changes of a running job's parameters: which were made, what is in force, what differs."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

from orchestrator.changes import Difference, changes_made, differences, in_force
from orchestrator.domain import Checkpoint, best_checkpoint
from orchestrator.store import StoredCommand
from worker_image.contract.commands import CheckpointNow, Command, SetLearningRate, SetParameters
from worker_image.contract.jobs import TrainSaeParams

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def stored(told: Command, status: str = "applied", step: int | None = 5) -> StoredCommand:
    return StoredCommand(told.id, told.type, 1, NOW, status, NOW, "", told.model_dump_json(), step)


def set_parameters(**values: float) -> SetParameters:
    return SetParameters(id=uuid4(), ts=0, values=values)


def test_a_change_is_what_took_effect_and_changed_parameters() -> None:
    rate = SetLearningRate(id=uuid4(), ts=0, lr=1e-3)
    alpha = set_parameters(auxk_alpha=0.5, log_every_steps=3)
    found = changes_made(
        [
            stored(rate, step=5),
            stored(CheckpointNow(id=uuid4(), ts=0)),
            stored(set_parameters(k=3), status="rejected"),
            stored(set_parameters(k=4), status="requested"),
            stored(set_parameters(k=5), status="expired"),
            stored(alpha, step=9),
        ]
    )
    assert [(change.id, change.step, change.values) for change in found] == [
        (rate.id, 5, {"lr": 1e-3}),
        (alpha.id, 9, {"auxk_alpha": 0.5, "log_every_steps": 3}),
    ]


def test_the_newest_change_of_a_parameter_is_in_force() -> None:
    changes = changes_made([stored(set_parameters(lr=1.0)), stored(SetLearningRate(id=uuid4(), ts=0, lr=1e-3))])
    assert in_force({"lr": None, "k": 2}, changes) == {"lr": 1e-3, "k": 2}


def test_what_was_changed_in_steps_that_were_lost_is_not_changed_again_when_less_far_on_another_wish_came() -> None:
    lost, newest = set_parameters(lr=1.0, auxk_alpha=0.5), set_parameters(lr=1e-3)
    found = changes_made([stored(set_parameters(lr=2.0), step=3), stored(lost, step=9), stored(newest, step=5)])
    assert [(change.step, change.values) for change in found] == [
        (3, {"lr": 2.0}),
        (9, {"auxk_alpha": 0.5}),
        (5, {"lr": 1e-3}),
    ]
    assert changes_made([stored(set_parameters(lr=1.0), step=9), stored(newest, step=5)])[0].id == newest.id


def test_what_differs_tells_whether_the_running_job_takes_it_up() -> None:
    params = TrainSaeParams(model="tiny", dataset="books")
    now = {"lr": 0.1, "k": 2, "steps": 5}
    assert differences(params, now, {"k": 3, "lr": 0.2, "steps": 5}) == [
        Difference("k", 2, 3, "new_job"),
        Difference("lr", 0.1, 0.2, "now"),
    ]


def test_what_differs_between_the_autoencoders_of_a_job_has_no_one_value_to_change() -> None:
    params = TrainSaeParams(model="tiny", dataset="books", grid={"lr": [0.1, 0.01]})
    [found] = differences(params, {"lr": None}, {"lr": 0.05})
    assert found.applies == "new_job"


def checkpoint(name: str, held_out_loss: float | None, attempt: int = 1) -> Checkpoint:
    step = int(name.partition("_")[2])
    return Checkpoint(UUID(int=1), attempt, name, step, 0.0, 1, "", "interval", NOW, held_out_loss)


def test_the_best_checkpoint_is_the_lowest_on_held_out_tokens_and_never_an_anomaly() -> None:
    found = [
        checkpoint("step_1", None),
        checkpoint("step_2", 0.3),
        checkpoint("step_3", 0.2),
        checkpoint("step_3", 0.2, attempt=2),
        checkpoint("anomaly_4", 0.1),
    ]
    assert best_checkpoint(reversed(found)) == found[2]
    assert best_checkpoint(found[:1]) is None
