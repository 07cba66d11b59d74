from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.domain import (
    FAILURE_CLASS,
    RETRIES,
    STATUS_OF,
    TRANSITIONS,
    EndReason,
    FailureClass,
    Intent,
    Job,
    JobFailure,
    JobStatus,
    RetryPolicy,
)
from orchestrator.outcome import Outcome
from orchestrator.settlement import settlement
from orchestrator.store import Ended
from tests.unit.orchestrator.jobs import training_job

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAILURES = sorted(FAILURE_CLASS)


def failed(reason: EndReason) -> Outcome:
    return Outcome(reason, JobFailure(reason, "it broke"))


def running(intent: Intent = "run", **changes: object) -> Job:
    return replace(training_job(intent=intent, **changes), status=JobStatus.RUNNING)


def asked_to_end(status: JobStatus, intent: Intent) -> Job:
    return replace(running(intent), status=status)


def settle(job: Job, end: Outcome, *, progressed: bool = False) -> Ended:
    return settlement(job, end, exit_code=None, resume_from=None, progressed=progressed, now=NOW)


def test_every_failure_is_of_a_kind_and_every_kind_is_granted_its_retries() -> None:
    assert set(FAILURE_CLASS) == {reason for reason, status in STATUS_OF.items() if status is JobStatus.FAILED}
    assert set(RETRIES) == set(FailureClass)


def test_a_job_whose_container_is_lost_is_tried_again_after_a_while() -> None:
    ended = settle(running(), failed(EndReason.LOST))
    assert ended.status is JobStatus.QUEUED
    assert (ended.retries, ended.not_before) == (1, NOW + timedelta(seconds=10))
    assert "retry 1 of 3 in 10 s" in (ended.note or "")


def test_each_further_retry_waits_longer_up_to_a_bound() -> None:
    policy = RetryPolicy(backoff_s=10, multiplier=3, max_backoff_s=100)
    assert [policy.delay_s(retry) for retry in (1, 2, 3, 1000)] == [10, 30, 90, 100]


def test_a_job_is_given_up_after_its_retries() -> None:
    ended = settle(running(retries=RETRIES[FailureClass.LOST]), failed(EndReason.LOST))
    assert ended.status is JobStatus.FAILED
    assert "given up after 3 retries" in (ended.note or "")


def test_an_attempt_that_left_a_checkpoint_starts_the_count_anew() -> None:
    ended = settle(running(retries=RETRIES[FailureClass.LOST]), failed(EndReason.LOST), progressed=True)
    assert (ended.status, ended.retries) == (JobStatus.QUEUED, 1)


@pytest.mark.parametrize("reason", [EndReason.USER_ERROR, EndReason.EXIT_CODE, EndReason.CUDA_OOM, EndReason.TIMEOUT])
def test_what_would_fail_the_same_way_again_is_not_tried_again(reason: EndReason) -> None:
    assert settle(running(), failed(reason)).status is JobStatus.FAILED


def test_a_job_may_ask_for_retries_of_its_own_errors() -> None:
    flaky = running(retry=RetryPolicy(on=(FailureClass.USER_ERROR,), max_retries=1))
    assert settle(flaky, failed(EndReason.EXIT_CODE)).status is JobStatus.QUEUED
    assert settle(flaky, failed(EndReason.LOST)).status is JobStatus.FAILED


@pytest.mark.parametrize("reason", FAILURES)
def test_a_job_without_retries_fails_at_once(reason: EndReason) -> None:
    assert settle(running(retry=RetryPolicy(max_retries=0)), failed(reason)).status is JobStatus.FAILED


PAUSING = RetryPolicy(on_failure="pause")


@pytest.mark.parametrize("intent", ["run", "requeue"])
@pytest.mark.parametrize("reason", FAILURES)
def test_a_job_that_would_rather_wait_is_paused_when_it_fails_for_good(reason: EndReason, intent: Intent) -> None:
    ended = settle(replace(running(intent), retry=PAUSING, retries=1000), failed(reason))
    assert ended.status is JobStatus.PAUSED
    assert ended.failure is not None
    assert (ended.note or "").startswith("it broke")


@pytest.mark.parametrize("reason", FAILURES)
def test_a_job_that_would_rather_wait_and_fails_while_it_is_to_pause_is_paused(reason: EndReason) -> None:
    job = replace(asked_to_end(JobStatus.PAUSING, "pause"), retry=PAUSING)
    assert settle(job, failed(reason)).status is JobStatus.PAUSED


def test_a_job_that_would_rather_wait_is_tried_again_first() -> None:
    assert settle(running(retry=PAUSING), failed(EndReason.LOST)).status is JobStatus.QUEUED


def test_a_job_that_fails_while_it_is_to_stop_ends_even_if_it_would_rather_wait() -> None:
    job = replace(asked_to_end(JobStatus.STOPPING, "stop"), retry=PAUSING)
    assert settle(job, failed(EndReason.USER_ERROR)).status is JobStatus.FAILED


def test_a_job_that_made_room_waits_for_its_turn_again_without_a_delay() -> None:
    ended = settle(asked_to_end(JobStatus.PAUSING, "requeue"), Outcome(EndReason.PAUSED))
    assert (ended.status, ended.not_before, ended.retries) == (JobStatus.QUEUED, None, None)


def test_a_job_lost_while_it_was_to_pause_is_paused() -> None:
    ended = settle(asked_to_end(JobStatus.PAUSING, "pause"), failed(EndReason.LOST))
    assert ended.status is JobStatus.PAUSED


def test_a_job_lost_while_it_was_to_stop_is_not_started_again() -> None:
    ended = settle(asked_to_end(JobStatus.STOPPING, "stop"), failed(EndReason.LOST))
    assert ended.status is JobStatus.FAILED


@given(
    reason=st.sampled_from(EndReason),
    seen=st.sampled_from(
        [
            (JobStatus.STARTING, "run"),
            (JobStatus.RUNNING, "run"),
            (JobStatus.PAUSING, "pause"),
            (JobStatus.PAUSING, "requeue"),
            (JobStatus.STOPPING, "stop"),
            (JobStatus.STOPPING, "cancel"),
        ]
    ),
    retries=st.integers(0, 20),
    most=st.none() | st.integers(0, 20),
    on_failure=st.sampled_from(["fail", "pause"]),
    progressed=st.booleans(),
)
def test_whatever_happens_the_table_of_transitions_allows_what_follows(
    reason: EndReason,
    seen: tuple[JobStatus, Intent],
    retries: int,
    most: int | None,
    on_failure: Literal["fail", "pause"],
    progressed: bool,
) -> None:
    status, intent = seen
    # What a stop or a cancel makes of a checkpoint is told before this.
    assume(reason is not EndReason.PAUSED or status is not JobStatus.STOPPING)
    job = replace(
        running(intent, retries=retries, retry=RetryPolicy(max_retries=most, on_failure=on_failure)), status=status
    )
    end = failed(reason) if reason in FAILURE_CLASS else Outcome(reason)
    ended = settle(job, end, progressed=progressed)
    assert ended.status in TRANSITIONS[status]
    assert (ended.not_before is not None) == (ended.status is JobStatus.QUEUED and ended.failure is not None)
