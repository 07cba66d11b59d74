from dataclasses import replace
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import Job, Resources
from orchestrator.gpus import Gpu
from orchestrator.planner import Held, Machine, demand, plan
from tests.unit.orchestrator.jobs import container_job, training_job


def gpu(index: int) -> Gpu:
    return Gpu(uuid=f"GPU-{index}", index=index, name="H200", memory_total_mb=1000, memory_used_mb=0)


def machine(gpus: int = 0, cpus: float = 4, **changes: object) -> Machine:
    return replace(Machine(cpus=cpus, gpus=tuple(gpu(index) for index in range(gpus))), **changes)


def asking(gpus: int = 0, cpus: float = 1) -> Job:
    return container_job(resources=Resources(gpus=gpus, cpus=cpus))


def test_a_training_job_takes_one_gpu_and_its_share_of_the_cores_by_default() -> None:
    assert demand(training_job(), machine(gpus=4, cpus=16)) == type(demand(training_job(), machine()))(1, 4)


def test_without_gpus_a_training_job_takes_all_cores() -> None:
    need = demand(training_job(), machine(cpus=6))
    assert (need.gpus, need.cpus) == (0, 6)


def test_a_plain_container_takes_one_core() -> None:
    need = demand(container_job(), machine(gpus=2, cpus=6))
    assert (need.gpus, need.cpus) == (0, 1)


def test_the_first_in_line_starts_first() -> None:
    first, second = asking(cpus=3), asking(cpus=3)
    decided = plan([first, second], [], machine(cpus=4))
    assert [start.job for start in decided.starts] == [first]
    assert decided.waits[second.id].reason == "cpu_busy"
    assert decided.waits[second.id].position == 1


def test_nothing_starts_on_a_full_disk() -> None:
    job = asking()
    decided = plan([job], [], machine(disk_error="1 MiB free"))
    assert not decided.starts
    assert decided.waits[job.id].reason == "disk_full"


def test_a_later_job_may_not_take_what_an_earlier_one_waits_for() -> None:
    large, small = asking(cpus=4), asking(cpus=1)
    decided = plan([large, small], [Held(uuid4(), cpus=1)], machine(cpus=4))
    assert not decided.starts
    assert decided.waits[small.id].reason == "behind_others"


def test_a_later_job_may_pass_with_what_is_left_over() -> None:
    waits_for_gpu, needs_cpu = asking(gpus=1), asking(cpus=1)
    decided = plan([waits_for_gpu, needs_cpu], [Held(uuid4(), 1, ("GPU-0",))], machine(gpus=1))
    assert [start.job for start in decided.starts] == [needs_cpu]
    assert decided.waits[waits_for_gpu.id].reason == "gpu_busy"


def test_what_can_never_fit_says_so_and_holds_nobody_up() -> None:
    impossible, possible = asking(gpus=9), asking()
    decided = plan([impossible, possible], [], machine(gpus=1))
    assert decided.waits[impossible.id].reason == "exceeds_machine"
    assert [start.job for start in decided.starts] == [possible]


def test_a_gpu_used_from_outside_is_not_handed_out() -> None:
    job = asking(gpus=1)
    decided = plan([job], [], machine(gpus=1, blocked={"GPU-0": 2}))
    assert decided.waits[job.id].reason == "gpu_busy"
    assert "outside" in decided.waits[job.id].detail


def test_while_the_gpus_cannot_be_seen_only_jobs_without_them_start() -> None:
    needs_gpu, needs_none = training_job(), asking()
    decided = plan([needs_gpu, needs_none], [], machine(gpus=1, gpu_error="NVML: driver lost"))
    assert decided.waits[needs_gpu.id].reason == "gpu_unknown"
    assert [start.job for start in decided.starts] == [needs_none]


def test_without_an_engine_everything_waits_for_it() -> None:
    job = asking()
    decided = plan([job], [], machine(), engine_error="connection refused")
    assert decided.waits[job.id].reason == "engine_unavailable"
    assert "connection refused" in decided.waits[job.id].detail


def test_the_first_waiting_job_learns_when_enough_will_be_free() -> None:
    job = asking(cpus=4)
    held = [Held(uuid4(), 2, eta_s=30), Held(uuid4(), 2, eta_s=90)]
    assert plan([job], held, machine(cpus=4)).waits[job.id].eta_s == 90


jobs_asking = st.builds(asking, gpus=st.integers(0, 5), cpus=st.floats(0.1, 10))


@given(st.lists(jobs_asking, max_size=12), st.integers(0, 4), st.lists(st.floats(0.1, 2), max_size=2))
def test_no_gpu_is_given_twice_no_core_overbooked_and_every_job_is_decided(
    queue: list[Job], gpus: int, running: list[float]
) -> None:
    here = machine(gpus=gpus, cpus=8)
    held = [Held(uuid4(), cpus, ("GPU-0",) if place == 0 and gpus else ()) for place, cpus in enumerate(running)]
    decided = plan(queue, held, here)
    given_out = [name for start in decided.starts for name in start.gpus] + [
        name for holder in held for name in holder.gpus
    ]
    assert len(given_out) == len(set(given_out))
    assert sum(start.cpus for start in decided.starts) + sum(running) <= here.cpus + 1e-6
    assert {start.job.id for start in decided.starts} | set(decided.waits) == {job.id for job in queue}
    assert sorted(wait.position for wait in decided.waits.values()) == list(range(1, len(decided.waits) + 1))
    assert all(len(start.gpus) == start.job.resources.gpus for start in decided.starts)
