from uuid import UUID

import pytest

from orchestrator.planner import Waits
from tests.unit.orchestrator.planner.scenes import asking, decide, holding, machine


def test_the_first_waiting_job_learns_when_enough_will_be_free() -> None:
    job = asking(cpus=4)
    held = [holding(2, eta_s=30.0), holding(2, eta_s=90.0)]
    assert decide([job], held, machine(cpus=4)).waits[job.id].eta_s == 90


def test_every_job_behind_it_learns_it_too_when_durations_are_known() -> None:
    jobs = [asking(cpus=4) for _ in range(3)]
    expected = {("container", "ada"): 100.0}
    waits = decide(jobs, [holding(4, eta_s=30.0)], machine(cpus=4), expected=expected).waits
    assert [waits[job.id].eta_s for job in jobs] == [30, 130, 230]


def test_a_time_limit_tells_how_long_a_job_may_run_when_nothing_better_does() -> None:
    jobs = [asking(cpus=4, timeout_s=50.0) for _ in range(2)]
    waits = decide(jobs, [holding(4, eta_s=30.0)], machine(cpus=4)).waits
    assert waits[jobs[1].id].eta_s == 80


def test_jobs_too_many_to_follow_learn_it_from_the_pace() -> None:
    jobs = [asking(cpus=4) for _ in range(2001)]
    expected = {("container", ""): 10.0}
    waits = decide(jobs, [holding(4, eta_s=0.0)], machine(cpus=4), expected=expected).waits
    assert waits[jobs[2000].id].eta_s == pytest.approx(20_000, rel=0.01)


def test_nothing_is_said_of_when_where_nothing_is_known() -> None:
    job, behind = asking(cpus=4), asking(cpus=4)
    waits = decide([job, behind], [holding(4)], machine(cpus=4)).waits
    assert waits[job.id].eta_s is None
    waits = decide([job, behind], [holding(4, eta_s=30.0)], machine(cpus=4)).waits
    assert (waits[job.id].eta_s, waits[behind.id].eta_s) == (30, None)


def test_a_job_between_attempts_learns_when_it_may_start() -> None:
    job = asking(not_before=100.0)
    assert decide([job], now=40.0).waits[job.id].eta_s == 60


def test_what_needs_somebody_to_act_has_no_time() -> None:
    job = asking(gpus=1)
    waits = decide([job], on=machine(gpus=1, engine_error="refused")).waits
    assert waits[job.id].eta_s is None


def test_places_are_told_apart_and_go_by_turn() -> None:
    jobs = [asking(cpus=9, owner=owner) for owner in ("ada", "ada", "bob")] + [asking(cpus=9, owner="cyd", priority=1)]
    waits = decide(jobs, on=machine(cpus=4)).waits
    assert sorted(waits[job.id].position for job in jobs) == [1, 2, 3, 4]
    assert waits[jobs[3].id].position == 1
    assert [job.id for job in waits.first(2)] == [jobs[3].id, jobs[0].id]


def test_without_a_plan_nothing_waits() -> None:
    assert len(Waits()) == 0
    assert UUID(int=1) not in Waits()
