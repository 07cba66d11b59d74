import pytest

from orchestrator.domain import EndReason
from orchestrator.outcome import Facts, outcome
from worker_image.contract.events import Failure, Finished


def finished(how: str, failure: Failure | None = None) -> Finished:
    return Finished(seq=1, ts=0, outcome=how, failure=failure)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (Facts("run", 0), EndReason.COMPLETED),
        (Facts("run", 0, finished=finished("completed")), EndReason.COMPLETED),
        (Facts("pause", 0, finished=finished("paused")), EndReason.PAUSED),
        (Facts("pause", 0, finished=finished("stopped")), EndReason.PAUSED),
        (Facts("stop", 0, finished=finished("paused")), EndReason.STOPPED),
        (Facts("stop", 143), EndReason.STOPPED),
        (Facts("run", 0, finished=finished("stopped")), EndReason.KILLED),
        (Facts("run", 143), EndReason.KILLED),
        (Facts("run", 143, overran=True), EndReason.TIMEOUT),
        (Facts("run", 137, overran=True, oom_killed=True), EndReason.HOST_OOM),
        (Facts("run", 0, overran=True, finished=finished("stopped")), EndReason.TIMEOUT),
        (Facts("run", 0, overran=True), EndReason.COMPLETED),
        (Facts("run", 3, overran=True), EndReason.EXIT_CODE),
        (Facts("cancel", 0, finished=finished("completed")), EndReason.CANCELLED),
        (Facts("cancel", None), EndReason.CANCELLED),
        (Facts("run", None), EndReason.LOST),
        (Facts("run", None, finished=finished("completed")), EndReason.COMPLETED),
        (Facts("run", 137, oom_killed=True), EndReason.HOST_OOM),
        (Facts("run", 0, oom_killed=True), EndReason.COMPLETED),
        (Facts("run", 137), EndReason.KILLED),
        (Facts("run", 97), EndReason.ALREADY_CLAIMED),
        (Facts("run", 98), EndReason.LAUNCH_FAILED),
        (Facts("run", 96, builtin=True), EndReason.DISK_FULL),
        (Facts("run", 96), EndReason.EXIT_CODE),
        (Facts("run", 0, builtin=True), EndReason.INTERNAL_ERROR),
        (Facts("pause", 137, overdue=True), EndReason.KILLED),
        (Facts("pause", 137, overdue=True, has_checkpoint=True), EndReason.PAUSED),
        (Facts("run", 3), EndReason.EXIT_CODE),
        (Facts("run", 143, timed_out=True), EndReason.TIMEOUT),
        (Facts("run", 0, timed_out=True, finished=finished("stopped")), EndReason.TIMEOUT),
        (Facts("run", 0, timed_out=True, finished=finished("completed")), EndReason.COMPLETED),
        (Facts("run", 127, engine_error="no such file"), EndReason.LAUNCH_FAILED),
        (Facts("run", None, engine_error="its process is gone"), EndReason.LOST),
    ],
)
def test_the_facts_tell_the_reason(facts: Facts, reason: EndReason) -> None:
    assert outcome(facts).reason is reason


def test_a_failure_keeps_the_workers_words_and_names_the_parameter() -> None:
    failure = Failure(code="user_error", message="no such module", field="hookpoint", suggestion="layers.0")
    told = outcome(Facts("run", 2, finished=finished("failed", failure))).failure
    assert told is not None
    assert (told.reason, told.field, told.suggestion) == (EndReason.USER_ERROR, "params.hookpoint", "layers.0")


def test_an_exit_code_comes_with_the_last_lines_of_the_log() -> None:
    told = outcome(Facts("run", 1, log_tail="ValueError: no")).failure
    assert told is not None
    assert "ValueError: no" in told.message


@pytest.mark.parametrize("code", [1, 97, 98, 137])
def test_every_failure_says_what_to_do(code: int) -> None:
    told = outcome(Facts("run", code)).failure
    assert told is not None
    assert told.suggestion
