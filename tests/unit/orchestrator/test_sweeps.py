import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.errors import InvalidInput
from orchestrator.sweeps import MOST_JOBS, Range, SweepSpace, points


def test_a_grid_is_every_combination_in_the_order_it_was_given() -> None:
    space = SweepSpace(grid={"k": [16, 32], "lr": [1e-3, 1e-4]})
    assert points(space, {"model": "m"}, seeded=True) == [
        {"model": "m", "k": 16, "lr": 1e-3},
        {"model": "m", "k": 16, "lr": 1e-4},
        {"model": "m", "k": 32, "lr": 1e-3},
        {"model": "m", "k": 32, "lr": 1e-4},
    ]


def test_repeats_differ_in_their_seed() -> None:
    space = SweepSpace(grid={"k": [16]}, repeat=3)
    assert [point["seed"] for point in points(space, {"seed": 5}, seeded=True)] == [5, 6, 7]


def test_a_type_without_a_seed_is_repeated_as_it_is() -> None:
    assert points(SweepSpace(repeat=2), {"image": "i"}, seeded=False) == [{"image": "i"}] * 2


def test_the_same_seed_draws_the_same_samples() -> None:
    space = SweepSpace(random={"lr": Range(low=1e-5, high=1e-2, log=True)}, samples=20, seed=3)
    drawn = points(space, {}, seeded=True)
    assert drawn == points(space, {}, seeded=True)
    assert drawn != points(space.model_copy(update={"seed": 4}), {}, seeded=True)
    assert len({point["lr"] for point in drawn}) == 20


def test_a_parameter_varied_twice_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput) as refused:
        points(SweepSpace(grid={"k": [1]}, random={"k": [1]}), {}, seeded=True)
    assert refused.value.field == "random.k"


def test_a_sweep_too_large_is_refused_before_it_is_made() -> None:
    space = SweepSpace(grid={"a": list(range(1000)), "b": list(range(1000))})
    with pytest.raises(InvalidInput, match=f"{MOST_JOBS} are allowed"):
        points(space, {}, seeded=True)


@pytest.mark.parametrize("ends", [{"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}])
def test_a_range_that_holds_nothing_is_refused(ends: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="low: "):
        Range(**ends)


@given(
    low=st.floats(1e-6, 1e3),
    factor=st.floats(1, 1e4),
    log=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
)
def test_what_is_drawn_lies_in_the_range(low: float, factor: float, log: bool, seed: int) -> None:
    drawn_from = Range(low=low, high=low * factor, log=log)
    space = SweepSpace(random={"x": drawn_from}, samples=10, seed=seed)
    assert all(drawn_from.low <= point["x"] <= drawn_from.high for point in points(space, {}, seeded=False))


@given(
    grid=st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(), min_size=1, max_size=4)),
    samples=st.integers(1, 5),
    repeat=st.integers(1, 4),
)
def test_there_are_as_many_jobs_as_its_size_tells(grid: dict[str, list[int]], samples: int, repeat: int) -> None:
    space = SweepSpace(grid=grid, random={"x": Range(low=0, high=1)}, samples=samples, repeat=repeat)
    combinations = math.prod(len(values) for values in grid.values())
    assert len(points(space, {}, seeded=True)) == space.size == combinations * samples * repeat
