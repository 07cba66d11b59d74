"""What the Docker executor decides without an engine."""

from typing import Any

import pytest

from orchestrator.executors.base import Observation, RunState
from orchestrator.executors.docker import STATES, container_user, observation


def state(status: str, **more: Any) -> dict[str, Any]:
    return {"Status": status, "ExitCode": 0, "OOMKilled": False, "Error": "", **more}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("created", RunState.CREATED),
        ("running", RunState.RUNNING),
        ("paused", RunState.RUNNING),
        ("restarting", RunState.RUNNING),
        ("removing", RunState.EXITED),
        ("exited", RunState.EXITED),
        ("dead", RunState.EXITED),
        ("configured", RunState.CREATED),
        ("initialized", RunState.CREATED),
        ("stopping", RunState.RUNNING),
        ("stopped", RunState.EXITED),
    ],
)
def test_every_state_of_the_engine_has_a_meaning(status: str, expected: RunState) -> None:
    assert observation(state(status)).state is expected
    assert status in STATES


def test_a_state_that_nobody_has_heard_of_is_no_verdict() -> None:
    assert observation(state("hibernating", ExitCode=1)) == Observation(RunState.RUNNING)


def test_only_an_exited_container_has_an_exit_code() -> None:
    assert observation(state("running")).exit_code is None
    assert observation(state("exited", ExitCode=3)) == Observation(RunState.EXITED, exit_code=3)


def test_the_kernels_kill_for_memory_is_kept() -> None:
    assert observation(state("exited", ExitCode=137, OOMKilled=True)).oom_killed


def test_the_engines_own_words_are_kept() -> None:
    assert observation(state("created", Error="no such device")).error == "no such device"


def test_jobs_run_as_the_orchestrators_user_but_never_as_root() -> None:
    assert container_user("", 1000, 100) == "1000:100"
    assert container_user("", 0, 0) == "10001:10001"
    assert container_user("5:6", 0, 0) == "5:6"
