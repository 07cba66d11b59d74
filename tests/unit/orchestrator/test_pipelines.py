from uuid import UUID

import pytest
from pydantic import ValidationError

from orchestrator.domain import JobStatus
from orchestrator.pipelines import (
    Outputs,
    PipelineSubmission,
    Step,
    StepState,
    TemplateError,
    When,
    decision,
    filled,
    folders,
    sampled,
)

JOB = UUID(int=7)


def step(name: str = "next", needs: dict[str, str] | None = None, **fields: object) -> Step:
    return Step.model_validate({"name": name, "type": "container", "needs": needs or {}, **fields})


def left(status: JobStatus = JobStatus.COMPLETED, checkpoint: str | None = "/c/step_9", **results: float) -> Outputs:
    return Outputs(JOB, status, results, "/runs/1/artifacts", checkpoint)


def submission(*steps: Step) -> PipelineSubmission:
    return PipelineSubmission.model_validate({"steps": [each.model_dump() for each in steps]})


def test_templates_are_replaced_wherever_they_stand() -> None:
    params = {
        "command": ["cat", "${train.artifact.sae/cfg.json}", "from ${train.id}"],
        "env": {"WHERE": "${train.artifacts}", "FROM": "${train.checkpoint}"},
    }
    assert filled(params, {"train": left()}) == {
        "command": ["cat", "/runs/1/artifacts/sae/cfg.json", f"from {JOB}"],
        "env": {"WHERE": "/runs/1/artifacts", "FROM": "/c/step_9"},
    }


def test_a_result_serves_as_text_and_as_a_number() -> None:
    outputs = {"train": left(l0=32.0, fvu=0.1)}
    assert filled("l0 is ${train.results.l0}", outputs) == "l0 is 32"
    assert float(filled("${train.results.fvu}", outputs)) == 0.1


def test_a_result_the_step_does_not_have_is_told_with_those_it_has() -> None:
    with pytest.raises(TemplateError, match="it has: fvu"):
        filled("${train.results.l0}", {"train": left(fvu=0.1)})


def test_a_checkpoint_that_was_not_left_is_told() -> None:
    with pytest.raises(TemplateError, match="left no checkpoint"):
        filled("${train.checkpoint}", {"train": left(checkpoint=None)})


def test_no_template_leads_out_of_the_artifacts() -> None:
    with pytest.raises(TemplateError, match="leads out"):
        filled("${train.artifact.../../secret}", {"train": left()})


def test_what_is_used_of_a_step_may_be_read() -> None:
    params = {"command": ["${train.artifact.sae}", "${train.checkpoint}", "${train.id}"]}
    assert folders(params, {"train": left()}) == {
        "train.artifacts": "/runs/1/artifacts",
        "train.checkpoint": "/c/step_9",
    }


def test_a_sample_stands_for_each_template() -> None:
    params = {"k": "${train.results.l0}", "x": ["a ${train.id}"], "n": 3}
    assert sampled(params) == {"k": "1", "x": ["a /sample"], "n": 3}


@pytest.mark.parametrize(
    ("ended", "condition", "starts"),
    [
        (JobStatus.COMPLETED, "completed", True),
        (JobStatus.COMPLETED, "failed", False),
        (JobStatus.COMPLETED, "ended", True),
        (JobStatus.FAILED, "completed", False),
        (JobStatus.FAILED, "failed", True),
        (JobStatus.CANCELLED, "failed", True),
        (JobStatus.STOPPED, "completed", False),
        (JobStatus.FAILED, "ended", True),
    ],
)
def test_a_step_starts_if_the_one_before_ended_as_it_was_to(ended: JobStatus, condition: str, starts: bool) -> None:
    states = {"first": StepState.STARTED, "next": StepState.WAITING}
    decided = decision(step(needs={"first": condition}), states, {"first": left(ended)})
    assert (decided is StepState.STARTED) is starts
    assert isinstance(decided, StepState) is starts


def test_a_step_waits_for_all_it_needs() -> None:
    states = {"a": StepState.STARTED, "b": StepState.WAITING, "next": StepState.WAITING}
    waiting = step(needs={"a": "completed", "b": "completed"})
    assert decision(waiting, states, {"a": left()}) is StepState.WAITING
    assert decision(waiting, states, {"a": left(), "b": left(JobStatus.RUNNING)}) is StepState.WAITING


def test_a_step_is_given_up_as_soon_as_it_can_never_start() -> None:
    states = {"a": StepState.STARTED, "b": StepState.STARTED, "next": StepState.WAITING}
    outputs = {"a": left(JobStatus.FAILED), "b": left(JobStatus.RUNNING)}
    decided = decision(step(needs={"a": "completed", "b": "completed"}), states, outputs)
    assert decided == "a failed, and it was to have completed"


def test_a_step_after_a_skipped_one_is_skipped() -> None:
    states = {"a": StepState.SKIPPED, "next": StepState.WAITING}
    assert decision(step(needs={"a": "ended"}), states, {}) == "a was skipped"


@pytest.mark.parametrize(("fvu", "starts"), [(0.2, True), (0.4, False)])
def test_a_bound_on_a_result_decides(fvu: float, starts: bool) -> None:
    bounded = step(needs={"a": "completed"}, when=[{"step": "a", "result": "fvu", "below": 0.3}])
    states = {"a": StepState.STARTED, "next": StepState.WAITING}
    assert (decision(bounded, states, {"a": left(fvu=fvu)}) is StepState.STARTED) is starts


def test_a_bound_on_a_result_that_is_not_there_does_not_hold() -> None:
    assert not When(step="a", result="fvu", below=1).holds(None)
    with pytest.raises(ValidationError, match="give a bound"):
        When(step="a", result="fvu")


def test_steps_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="wait for each other"):
        submission(step("a", {"b": "ended"}), step("b", {"a": "ended"}))


def test_a_step_that_is_needed_must_exist_and_be_the_only_one_of_its_name() -> None:
    with pytest.raises(ValidationError, match="no step 'b'"):
        submission(step("a", {"b": "ended"}))
    with pytest.raises(ValidationError, match="'a' is there twice"):
        submission(step("a"), step("a"))


def test_what_a_template_uses_must_have_ended_before() -> None:
    with pytest.raises(ValidationError, match="add it to its needs"):
        submission(step("a"), step("b", params={"command": ["${a.artifacts}"]}))
    first, second = step("a"), step("b", {"a": "completed"})
    submission(first, second, step("c", {"b": "completed"}, params={"command": ["${a.artifacts}"]}))


def test_a_template_that_no_step_has_is_told_with_those_there_are() -> None:
    with pytest.raises(ValidationError, match=r"there are .*a\.artifacts"):
        submission(step("a"), step("b", {"a": "completed"}, params={"x": "${a.output}"}))
