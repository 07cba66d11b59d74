"""How long work takes on a machine."""

import pytest

from orchestrator.estimate import Speed, correction, cpu_speed, gpu_speed, seconds
from worker_image.contract.budget import Work

SPEED = Speed(half_flop_s=100.0, single_flop_s=10.0, bytes_s=5.0)
WORK = Work(harvested_tokens=1, harvest_flop=200.0, training_flop=30.0, moved_bytes=20.0)


def test_harvesting_training_and_the_optimiser_follow_one_another() -> None:
    nothing = seconds(Work(0, 0, 0, 0), SPEED, model_in_half=False)
    assert seconds(WORK, SPEED, model_in_half=False) - nothing == 20 + 3 + 4
    assert seconds(WORK, SPEED, model_in_half=True) - nothing == 2 + 3 + 4


def test_earlier_jobs_correct_by_their_median() -> None:
    assert correction([(10, 20), (10, 30), (10, 900)]) == (3, 3)


def test_without_earlier_jobs_nothing_is_corrected() -> None:
    assert correction([]) == (1, 0)
    assert correction([(0, 5), (5, 0)]) == (1, 0)


@pytest.mark.parametrize("name", ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB", "Tesla T4", "NVIDIA L4"])
def test_gpus_are_known_by_part_of_their_name(name: str) -> None:
    assert gpu_speed(name) != gpu_speed("something new")


def test_an_l40s_is_not_taken_for_an_l4() -> None:
    assert gpu_speed("NVIDIA L40S").bytes_s > gpu_speed("NVIDIA L4").bytes_s


def test_more_cores_are_faster() -> None:
    assert cpu_speed(4).single_flop_s == 2 * cpu_speed(2).single_flop_s
