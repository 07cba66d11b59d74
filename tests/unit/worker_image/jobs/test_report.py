"""The report of a training: courses are followed across attempts, tables hold what they say."""

import json
import math
from uuid import UUID

from worker_image.contract.commands import AppliedChange
from worker_image.contract.train_sae import TrainSaeParams
from worker_image.jobs.train_sae.report import Curves, report

PARAMS = TrainSaeParams(model="tiny", dataset="a|b.txt", steps=10, k=4)


def written(**changes: object) -> str:
    given: dict[str, object] = {
        "labels": [""],
        "step": 10,
        "wall_time_s": 61.0,
        "results": {"fvu": 0.25, "tokens": 20480.0},
        "curves": Curves(),
        "changes": [],
        "checkpoint": "step_10",
    }
    return report(PARAMS, **(given | changes))  # type: ignore[arg-type]


def rows(curves: Curves) -> dict[object, list[object]]:
    return {row[0]: list(row[1:]) for row in curves.rows()}


def test_a_course_keeps_first_last_lowest_and_highest_with_their_steps() -> None:
    curves = Curves()
    for step, loss in ((1, 4.0), (2, 8.0), (3, 0.5), (4, 0.75)):
        curves.add(step, {"loss": loss, "of no interest": 1.0})
    assert rows(curves) == {"loss": ["4 (1)", "0.75 (4)", "0.5 (3)", "8 (2)"]}


def test_a_course_goes_on_where_a_checkpoint_left_it() -> None:
    whole, first, second = Curves(), Curves(), Curves()
    for step, loss in ((1, 4.0), (2, 0.5), (3, 0.75)):
        whole.add(step, {"loss": loss})
        (first if step < 3 else second).add(step, {"loss": loss})
        if step == 2:
            second.restore(json.loads(json.dumps(first.to_json())))
    assert rows(second) == rows(whole)


def test_what_is_not_finite_is_left_out() -> None:
    curves = Curves()
    curves.add(1, {"loss": math.nan, "fvu": 0.5})
    assert list(rows(curves)) == ["fvu"]


def test_it_tells_how_it_ended() -> None:
    assert "completed after 10 of 10 steps, 1m01s; newest checkpoint step_10." in written()
    assert "stopped early after 4 of 10 steps" in written(step=4)


def test_several_autoencoders_have_a_column_each() -> None:
    text = written(labels=["k=2", "k=4"], results={"fvu": 0.3, "fvu/0": 0.4, "fvu/1": 0.2})
    assert "|  | k=2 | k=4 |" in text
    assert "| fvu | 0.4 | 0.2 |" in text


def test_changes_are_told_with_their_step_and_absent_without() -> None:
    change = AppliedChange(id=UUID(int=1), step=7, values={"lr": 0.001, "auxk_alpha": 0})
    assert "| 7 | lr = 0.001, auxk_alpha = 0 |" in written(changes=[change])
    assert "Changed while it ran" not in written()


def test_chosen_parameters_are_told_apart_from_defaults_and_cannot_break_a_table() -> None:
    chosen, usual = written().split("## Parameters at their defaults")
    assert "| k | 4 |" in chosen
    assert r"| dataset | a\|b.txt |" in chosen
    assert "| batch_size | 2048 |" in usual
