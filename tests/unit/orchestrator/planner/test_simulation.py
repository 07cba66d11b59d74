"""Machines on which everything that may happen does."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain import Owner
from orchestrator.planner import Machine, Policy
from tests.unit.orchestrator.planner.scenes import asking, gpu, machine
from tests.unit.orchestrator.planner.simulation import Simulation, Work

LONGEST_S = 8.0


@st.composite
def works(draw: st.DrawFn) -> Work:
    gpus = draw(st.sampled_from([0, 0, 1, 1, 2, 4]))
    asked: dict[str, Any] = {
        "gpus": gpus,
        "cpus": draw(st.sampled_from([0.5, 1, 2, 4])),
        "owner": draw(st.sampled_from("abc")),
        "priority": draw(st.sampled_from([0, 0, 0, 1, 5])),
        "memory_mb": draw(st.sampled_from([None, None, 400, 900])),
        "timeout_s": draw(st.sampled_from([None, None, LONGEST_S])),
        "type": draw(st.sampled_from(["container", "train_sae"])),
    }
    if gpus == 1:
        asked["gpu_memory_mb"] = draw(st.sampled_from([None, 20_000, 50_000]))
        asked["gpu_ids"] = draw(st.sampled_from([(), (), ("0", "1"), ("GPU-3",)]))
    at = draw(st.floats(0, 30))
    guess = draw(st.sampled_from([None, 1.0, 0.5, 2.0]))
    return Work(at, asking(created_at=at, **asked), draw(st.floats(0.5, LONGEST_S)), guess)


machines = st.builds(
    lambda gpus, blocked: machine(gpus=gpus, cpus=4, memory_mb=1000, blocked={"GPU-0": 1} if blocked and gpus else {}),
    gpus=st.integers(0, 4),
    blocked=st.booleans(),
)
owners = st.lists(
    st.builds(
        Owner,
        st.sampled_from("abc"),
        share=st.sampled_from([0.5, 1.0, 3.0]),
        max_running=st.sampled_from([None, 1, 3]),
        max_gpus=st.sampled_from([None, 1, 2]),
    ),
    unique_by=lambda owner: owner.name,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(works(), max_size=40), machines, owners, st.sampled_from([0.0, 5.0]))
def test_whatever_comes_nothing_is_overbooked_and_all_that_can_run_does(
    found: list[Work], on: Machine, whose: list[Owner], preempt_after_s: float
) -> None:
    simulation = Simulation(on, whose, Policy(preempt_after_s=preempt_after_s, grace_s=1.0))
    simulation.run(found)
    assert not simulation.held()
    for job_id in [work.job.id for work in found if work.job.id not in simulation.started]:
        (left,) = [work.job for work in found if work.job.id == job_id]
        from_outside = {"gpu_busy", "gpu_memory_busy"} if on.blocked else set()
        assert simulation.reason(left) in {"exceeds_machine", "quota"} | from_outside


def test_a_hundred_thousand_jobs_all_start_each_owners_in_order() -> None:
    one = asking(cpus=1)
    jobs = [
        replace(one, id=UUID(int=place + 1), owner=f"owner-{place % 10}", created_at=float(place))
        for place in range(100_000)
    ]
    found = [Work(0.0, job, runs_s=10.0, guess=None) for job in jobs]
    simulation = Simulation(machine(cpus=2_000), checks=False)
    simulation.run(found)
    assert len(simulation.started) == len(found)
    assert simulation.now == pytest.approx(10.0 * len(found) / 2_000)
    for owner in range(10):
        times = [simulation.started[work.job.id] for work in found[owner::10]]
        assert times == sorted(times)


def stream(every_s: float, until: float, runs_s: list[float], guess: float | None, **asked: Any) -> list[Work]:
    """Small jobs without end, more than the machine can take."""
    count = int(until / every_s)
    return [
        Work(place * every_s, asking(created_at=place * every_s, **asked), runs_s[place % len(runs_s)], guess)
        for place in range(count)
    ]


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ({"gpus": 4}, {"gpus": 1}),
        ({"gpus": 1}, {"gpus": 1, "gpu_memory_mb": 15_000}),
        ({"gpus": 1, "gpu_memory_mb": 79_000}, {"gpus": 1, "gpu_memory_mb": 15_000}),
        ({"cpus": 8}, {"cpus": 1}),
        ({"memory_mb": 1000}, {"memory_mb": 150}),
    ],
    ids=["all GPUs", "a whole GPU among sharers", "most of a GPU's memory", "all cores", "all memory"],
)
@settings(max_examples=10, deadline=None)
@given(
    runs_s=st.lists(st.floats(1, LONGEST_S), min_size=1, max_size=5),
    guess=st.sampled_from([None, 1.0, 0.3, 3.0]),
    bounded=st.booleans(),
    others=st.booleans(),
)
def test_small_jobs_without_end_cannot_starve_a_large_one(
    large: dict[str, Any], small: dict[str, Any], runs_s: list[float], guess: float | None, bounded: bool, others: bool
) -> None:
    on = replace(machine(cpus=8, memory_mb=1000), gpus=tuple(gpu(index) for index in range(4)))
    asked = {"cpus": 0.5, "owner": "bob" if others else "ada", "timeout_s": LONGEST_S if bounded else None} | small
    came = 3.0
    # What is ahead of it by the time it comes may run first; then nothing but what runs, or surely ends in time.
    bound_s = 4 * LONGEST_S
    simulation = Simulation(on, policy=Policy(grace_s=0.0), checks=False)
    wanted = asking(created_at=came, **({"cpus": 0.5, "owner": "ada"} | large))
    simulation.run(
        [*stream(0.25, came + bound_s, runs_s, guess, **asked), Work(came, wanted, 1.0)], until=came + bound_s
    )
    assert wanted.id in simulation.started
