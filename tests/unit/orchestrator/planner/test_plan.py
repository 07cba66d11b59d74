from dataclasses import replace

import pytest

from orchestrator.domain import Resources, Shape
from orchestrator.planner import Policy, Queue, Terms, needs, plan
from tests.unit.orchestrator.planner.scenes import (
    Owner,
    asking,
    decide,
    gpu,
    holding,
    machine,
    started,
    training,
)

EMPTY = Resources()


def test_a_training_job_takes_one_gpu_and_its_share_of_the_cores_by_default() -> None:
    need = needs(Shape("train_sae", EMPTY), machine(gpus=4, cpus=16), Policy())
    assert (need.gpus, need.cpus) == (1, 4)


def test_without_gpus_a_training_job_takes_all_cores() -> None:
    need = needs(Shape("train_sae", EMPTY), machine(cpus=6), Policy())
    assert (need.gpus, need.cpus) == (0, 6)


def test_a_plain_container_takes_one_core() -> None:
    need = needs(Shape("container", EMPTY), machine(gpus=2, cpus=6), Policy())
    assert (need.gpus, need.cpus) == (0, 1)


def test_a_plain_container_that_names_gpu_memory_takes_a_gpu() -> None:
    assert needs(Shape("container", Resources(gpu_memory_mb=1000)), machine(gpus=2), Policy()).gpus == 1


# --- turns


def test_the_first_in_line_starts_first() -> None:
    first, second = asking(cpus=3), asking(cpus=3)
    decided = decide([second, first], on=machine(cpus=4))
    assert started(decided) == [first]
    assert decided.waits[second.id].reason == "cpu_busy"
    assert decided.waits[second.id].position == 1


def test_higher_priority_goes_first() -> None:
    low, high = asking(cpus=4), asking(cpus=4, priority=1)
    assert started(decide([low, high])) == [high]


def test_owners_take_turns_though_one_came_first_with_many() -> None:
    many = [asking(cpus=1, owner="ada") for _ in range(10)]
    late = [asking(cpus=1, owner="bob") for _ in range(2)]
    decided = decide(many + late, on=machine(cpus=4))
    assert sorted(job.owner for job in started(decided)) == ["ada", "ada", "bob", "bob"]


def test_an_owner_with_twice_the_share_gets_twice_as_much() -> None:
    jobs = [asking(cpus=1, owner=name) for _ in range(9) for name in ("ada", "bob")]
    decided = decide(jobs, on=machine(cpus=9), owners=[Owner("ada", share=2.0)])
    assert sorted(job.owner for job in started(decided)).count("ada") == 6


def test_who_used_less_goes_first_and_past_use_fades() -> None:
    def first(now: float) -> str:
        owners = [Owner("ada", usage=1e6, usage_at=0.0), Owner("bob", usage=1e3, usage_at=now)]
        jobs = [asking(cpus=4, owner="ada"), asking(cpus=4, owner="bob")]
        return started(decide(jobs, owners=owners, now=now))[0].owner

    assert first(now=0.0) == "bob"
    assert first(now=20 * Policy().half_life_s) == "ada"


def test_what_runs_now_counts_as_use() -> None:
    jobs = [asking(cpus=1, owner="ada"), asking(cpus=1, owner="bob")]
    decided = decide(jobs, [holding(cpus=3, owner="ada")], machine(cpus=4))
    assert [job.owner for job in started(decided)] == ["bob"]


# --- passing by


def test_a_later_job_may_not_take_what_an_earlier_one_waits_for() -> None:
    large, small = asking(cpus=4), asking(cpus=1)
    decided = decide([large, small], [holding(cpus=1)], machine(cpus=4))
    assert not decided.starts
    assert decided.waits[large.id].reason == "cpu_busy"
    assert decided.waits[small.id].reason == "behind_others"


def test_a_later_job_may_pass_with_what_is_left_over() -> None:
    waits_for_gpu, needs_cpu = asking(gpus=1), asking(cpus=1)
    decided = decide([waits_for_gpu, needs_cpu], [holding(1, (0,))], machine(gpus=1))
    assert started(decided) == [needs_cpu]
    assert decided.waits[waits_for_gpu.id].reason == "gpu_busy"


@pytest.mark.parametrize(("timeout_s", "passes"), [(200.0, True), (300.0, False), (None, False)])
def test_a_later_job_may_pass_if_it_surely_ends_before_the_earlier_one_can_start(
    timeout_s: float | None, passes: bool
) -> None:
    large, small = asking(gpus=2), asking(gpus=1, timeout_s=timeout_s)
    decided = decide([large, small], [holding(0.1, (0,), eta_s=300.0)], machine(gpus=2), policy=Policy(grace_s=60.0))
    assert started(decided) == ([small] if passes else [])


def test_nobody_passes_by_the_clock_when_the_earlier_one_may_start_at_any_moment() -> None:
    large, small = asking(gpus=2), asking(gpus=1, timeout_s=1.0)
    decided = decide([large, small], [holding(0.1, (0,), eta_s=None)], machine(gpus=2))
    assert not decided.starts


def test_a_gpu_that_is_shared_takes_no_more_sharers_once_somebody_waits_for_all_of_it() -> None:
    whole, sharer = asking(gpus=1), asking(gpus=1, gpu_memory_mb=1000)
    decided = decide([whole, sharer], [holding(0.1, (0,), gpu_memory_mb=1000)], machine(gpus=1))
    assert not decided.starts
    assert decided.waits[sharer.id].reason == "behind_others"


def test_who_is_kept_something_for_goes_first_in_the_next_plan_whatever_its_owner_used() -> None:
    large, small = asking(cpus=4, owner="ada"), asking(cpus=1, owner="bob")
    before = decide([large], [holding(1)])
    owners = {"ada": Owner("ada", usage=1e6)}
    after = plan(Queue([small, large]).lines(), [], Terms(machine(), owners), next_up=before.next_up)
    assert started(after) == [large]
    assert after.waits[small.id].position == 1


# --- GPUs


def test_only_the_gpus_that_were_asked_for_are_given() -> None:
    by_index, by_uuid = asking(gpus=1, gpu_ids=("2",)), asking(gpus=1, gpu_ids=("GPU-1",))
    decided = decide([by_index, by_uuid], on=machine(gpus=4))
    assert [start.gpus for start in decided.starts] == [("GPU-2",), ("GPU-1",)]


def test_a_model_is_found_by_a_part_of_its_name() -> None:
    mixed = (gpu(0), gpu(1, name="NVIDIA A100-SXM4-80GB"))
    wanted, unknown = asking(gpus=1, gpu_model="a100"), asking(gpus=1, gpu_model="B200")
    decided = decide([wanted, unknown], on=replace(machine(), gpus=mixed))
    assert [start.gpus for start in decided.starts] == [("GPU-1",)]
    assert decided.waits[unknown.id].reason == "exceeds_machine"


def test_what_can_never_fit_says_so_and_holds_nobody_up() -> None:
    impossible, possible = asking(gpus=9), asking()
    decided = decide([impossible, possible], on=machine(gpus=1))
    assert decided.waits[impossible.id].reason == "exceeds_machine"
    assert started(decided) == [possible]


def test_a_gpu_used_from_outside_is_not_handed_out() -> None:
    whole, sharer = asking(gpus=1), asking(gpus=1, gpu_memory_mb=100)
    decided = decide([whole, sharer], on=machine(gpus=1, blocked={"GPU-0": 2}))
    assert decided.waits[whole.id].reason == "gpu_busy"
    assert "outside" in decided.waits[whole.id].detail
    assert sharer.id in decided.waits


def test_a_gpu_with_much_memory_used_from_outside_is_not_handed_out_whole_and_the_rest_can_be_shared() -> None:
    whole, sharer = asking(gpus=1), asking(gpus=1, gpu_memory_mb=100)
    decided = decide([whole, sharer], on=machine(gpus=1, outside_mb={"GPU-0": 5000}))
    assert started(decided) == [sharer]
    assert "5000 MiB of memory used from outside" in decided.waits[whole.id].detail
    assert started(decide([whole], on=machine(gpus=1, outside_mb={"GPU-0": 600}))) == [whole]


def test_nothing_is_kept_for_a_job_that_waits_for_processes_from_outside() -> None:
    stuck, other = asking(gpus=1, cpus=4), asking(cpus=4)
    assert started(decide([stuck, other], on=machine(gpus=1, blocked={"GPU-0": 1}))) == [other]


def test_while_the_gpus_cannot_be_seen_only_jobs_without_them_start() -> None:
    needs_gpu, needs_none = training(), asking()
    decided = decide([needs_gpu, needs_none], on=machine(gpus=1, gpu_error="NVML: driver lost"))
    assert decided.waits[needs_gpu.id].reason == "gpu_unknown"
    assert started(decided) == [needs_none]


# --- shared GPUs


def test_jobs_share_a_gpu_as_far_as_their_memory_fits() -> None:
    jobs = [asking(gpus=1, cpus=0.1, gpu_memory_mb=30_000) for _ in range(3)]
    decided = decide(jobs, on=machine(gpus=1))
    assert started(decided) == jobs[:2]
    assert decided.waits[jobs[2].id].reason == "gpu_memory_busy"


def test_a_sharer_goes_where_least_is_left_over_and_leaves_whole_gpus_whole() -> None:
    held = [holding(0.1, (1,), gpu_memory_mb=50_000), holding(0.1, (2,), gpu_memory_mb=10_000)]
    decided = decide([asking(gpus=1, gpu_memory_mb=20_000)], held, machine(gpus=4))
    assert decided.starts[0].gpus == ("GPU-1",)
    assert decided.starts[0].gpu_memory_mb == 20_000


def test_a_job_that_wants_a_gpu_for_itself_gets_none_that_is_shared() -> None:
    job = asking(gpus=1)
    decided = decide([job], [holding(0.1, (0,), gpu_memory_mb=100)], machine(gpus=1))
    assert decided.waits[job.id].reason == "gpu_busy"


def test_a_sharer_gets_no_gpu_that_belongs_to_another() -> None:
    job = asking(gpus=1, gpu_memory_mb=100)
    assert not decide([job], [holding(0.1, (0,))], machine(gpus=1)).starts


def test_memory_used_from_outside_is_not_shared_out() -> None:
    job = asking(gpus=1, gpu_memory_mb=30_000)
    assert not decide([job], on=machine(gpus=1, outside_mb={"GPU-0": 60_000})).starts


# --- memory


def test_jobs_start_only_while_their_memory_limits_fit_together() -> None:
    jobs = [asking(memory_mb=600), asking(memory_mb=600), asking()]
    decided = decide(jobs, on=machine(memory_mb=1000))
    assert started(decided) == [jobs[0], jobs[2]]
    assert decided.waits[jobs[1].id].reason == "memory_busy"


# --- limits of owners


def test_an_owner_runs_no_more_jobs_than_it_may() -> None:
    jobs = [asking(owner="ada"), asking(owner="ada"), asking(owner="bob")]
    decided = decide(jobs, owners=[Owner("ada", max_running=1)])
    assert started(decided) == [jobs[0], jobs[2]]
    assert decided.waits[jobs[1].id].reason == "quota"
    assert "ada" in decided.waits[jobs[1].id].detail


def test_an_owner_holds_no_more_gpus_than_it_may_but_may_go_on_without_them() -> None:
    jobs = [asking(gpus=2), asking(gpus=1), asking(gpus=0)]
    decided = decide(jobs, on=machine(gpus=4), owners=[Owner("ada", max_gpus=2)])
    assert started(decided) == [jobs[0], jobs[2]]


def test_an_owners_small_jobs_cannot_keep_its_large_one_from_its_quota() -> None:
    large, small = asking(gpus=4), asking(gpus=1)
    decided = decide([large, small], [holding(0.1, (0,))], machine(gpus=8), owners=[Owner("ada", max_gpus=4)])
    assert not decided.starts
    assert decided.waits[large.id].reason == "quota"


def test_what_an_owner_may_never_hold_keeps_nobody_up() -> None:
    too_large, small = asking(gpus=4), asking(gpus=1)
    decided = decide([too_large, small], on=machine(gpus=8), owners=[Owner("ada", max_gpus=2)])
    assert started(decided) == [small]


# --- backoff, engine, disk


def test_a_job_between_attempts_waits_and_keeps_nothing() -> None:
    later, now = asking(cpus=4, not_before=100.0), asking(cpus=4)
    decided = decide([later, now], now=40.0)
    assert started(decided) == [now]
    assert decided.waits[later.id].reason == "backoff"
    assert started(decide([later], now=100.0)) == [later]


@pytest.mark.parametrize(("error", "reason"), [("engine_error", "engine_unavailable"), ("disk_error", "disk_full")])
def test_without_an_engine_or_room_on_the_disk_everything_waits(error: str, reason: str) -> None:
    job = asking()
    decided = decide([job], on=machine(**{error: "it is gone"}))
    assert not decided.starts
    assert decided.waits[job.id].reason == reason
    assert "it is gone" in decided.waits[job.id].detail


# --- preemption


def test_a_job_of_higher_priority_has_a_lower_one_make_room() -> None:
    urgent, victim = asking(gpus=1, priority=5), holding(0.1, (0,), resumable=True, ran_s=1000.0)
    decided = decide([urgent], [victim], machine(gpus=1))
    assert [(item.victim, item.beneficiary) for item in decided.preempt] == [(victim.job_id, urgent.id)]
    assert decided.waits[urgent.id].reason == "preempting"


@pytest.mark.parametrize(
    "changes",
    [{"resumable": False}, {"priority": 5}, {"ran_s": 10.0}, {"leaving": True, "making_room": True}],
    ids=["cannot continue", "same priority", "just began", "leaves already"],
)
def test_nobody_is_asked_to_make_room_who_may_not_be(changes: dict[str, object]) -> None:
    victim = replace(holding(0.1, (0,), resumable=True, ran_s=1000.0), **changes)
    assert not decide([asking(gpus=1, priority=5)], [victim], machine(gpus=1)).preempt


def test_nobody_makes_room_in_vain() -> None:
    low = holding(0.1, (0,), resumable=True, ran_s=1000.0)
    fixed = holding(0.1, (1,), resumable=False)
    assert not decide([asking(gpus=2, priority=5)], [low, fixed], machine(gpus=2)).preempt


def test_the_fewest_make_room_and_of_as_few_who_loses_least() -> None:
    small = [holding(0.1, (index,), resumable=True, ran_s=1000.0, lost_s=1.0) for index in (0, 1)]
    large = [
        holding(0.1, gpus, resumable=True, ran_s=1000.0, lost_s=lost_s)
        for gpus, lost_s in (((2, 3), 90.0), ((4, 5), 80.0))
    ]
    decided = decide([asking(gpus=2, priority=5)], small + large, machine(gpus=6))
    assert [item.victim for item in decided.preempt] == [large[1].job_id]


def test_sharers_make_room_together_for_a_job_that_wants_all_of_the_gpu() -> None:
    sharers = [holding(0.1, (0,), gpu_memory_mb=100, resumable=True, ran_s=1000.0) for _ in range(3)]
    decided = decide([asking(gpus=1, priority=5)], sharers, machine(gpus=1))
    assert {item.victim for item in decided.preempt} == {held.job_id for held in sharers}


def test_what_is_about_to_be_free_is_waited_for_and_not_given_to_others() -> None:
    urgent, other = asking(gpus=1, priority=5), asking(gpus=1, priority=4)
    leaving = holding(0.1, (0,), leaving=True, making_room=True)
    other_low = holding(0.1, (1,), resumable=True, ran_s=10.0)
    decided = decide([urgent, other], [leaving, other_low], machine(gpus=2))
    assert not decided.preempt
    assert decided.waits[urgent.id].reason == "preempting"
    assert decided.waits[other.id].reason == "gpu_busy"
