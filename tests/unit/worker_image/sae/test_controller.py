"""The L0 controller on a plant that answers like an SAE does: by a power of the coefficient, and late."""

import math
from dataclasses import replace

import pytest
import torch

from worker_image.sae.controller import L0Control, L0Controller

STEPS = 800


class Plant:
    """L0 that goes to ``scale / coefficient ** slope`` with a lag, like weights that have yet to learn."""

    def __init__(self, scale: float = 10.0, slope: float = 0.7, lag_steps: float = 40.0, l0: float = 200.0) -> None:
        self.scale, self.slope, self.lag_steps = scale, slope, lag_steps
        self.log_l0 = math.log(l0)

    def step(self, coefficient: float, pace: float = 1.0) -> float:
        goal = math.log(self.scale) - self.slope * math.log(coefficient)
        self.log_l0 += pace * (goal - self.log_l0) / self.lag_steps
        return math.exp(self.log_l0)


def run(controller: L0Controller, plant: Plant, steps: int = STEPS, noise: float = 0.0, seed: int = 0) -> list[float]:
    """L0 at each step."""
    generator = torch.Generator().manual_seed(seed)
    seen = []
    for _ in range(steps):
        l0 = plant.step(controller.coefficient.item())
        wobble = math.exp(noise * torch.randn((), generator=generator).item())
        controller.observe(torch.tensor(l0 * wobble))
        seen.append(l0)
    return seen


def fresh(coefficient: float = 1.0, target_l0: float = 32.0) -> L0Controller:
    return L0Controller(L0Control.over(target_l0, STEPS), coefficient)


@pytest.mark.parametrize("coefficient", [0.03, 1.0, 30.0])
@pytest.mark.parametrize("slope", [0.3, 0.7, 1.5])
def test_l0_settles_at_the_target_from_wherever_it_starts(coefficient: float, slope: float) -> None:
    l0 = run(fresh(coefficient), Plant(slope=slope), steps=3 * STEPS // 2)

    assert max(abs(value / 32.0 - 1) for value in l0[-STEPS // 4 :]) < 0.04


@pytest.mark.parametrize("lag_steps", [1.0, 15.0, 120.0])
def test_a_quick_and_a_slow_plant_are_both_held(lag_steps: float) -> None:
    l0 = run(fresh(), Plant(lag_steps=lag_steps), steps=2 * STEPS)

    assert max(abs(value / 32.0 - 1) for value in l0[-STEPS // 4 :]) < 0.04


def test_noise_of_single_batches_hardly_moves_the_coefficient() -> None:
    controller = fresh()
    run(controller, Plant())
    settled = controller.coefficient.item()

    run(controller, Plant(l0=32.0), steps=200, noise=0.05)

    assert controller.coefficient.item() == pytest.approx(settled, rel=0.1)


def test_no_step_moves_the_coefficient_by_more_than_the_bound() -> None:
    controller = fresh()
    before = controller.coefficient.item()

    for l0 in (1e6, 1e-6, 1e6, 0.0):
        controller.observe(torch.tensor(l0))
        after = controller.coefficient.item()
        assert abs(math.log(after / before)) <= controller.control.most_per_step + 1e-6
        before = after


def test_a_target_out_of_reach_does_not_wind_up() -> None:
    control = L0Control(target_l0=32.0, averaging_steps=5.0, integral_steps=20.0, range_factor=3.0)
    controller = L0Controller(control, 1.0)
    for _ in range(5000):
        controller.observe(torch.tensor(1e4))
    assert controller.coefficient.item() == pytest.approx(3.0)

    # L0 falls below the target: the coefficient comes down at once, not after 5000 steps have been paid back.
    for _ in range(20):
        controller.observe(torch.tensor(16.0))

    assert controller.coefficient.item() < 2.5


def test_the_proportional_part_takes_back_what_integrates_while_l0_falls_by_itself() -> None:
    # Early in training L0 comes down from 200 to the target whatever the coefficient.
    highest = {}
    for proportional in (0.0, 1.0):
        controller = L0Controller(replace(fresh().control, proportional=proportional), 1.0)
        highest[proportional] = 0.0
        for step in range(STEPS):
            controller.observe(torch.tensor(32.0 + 168.0 * math.exp(-step / 60)))
            highest[proportional] = max(highest[proportional], controller.coefficient.item())

    assert highest[1.0] < highest[0.0] / 2


def test_while_warming_up_it_only_listens() -> None:
    controller = fresh(coefficient=0.5)

    for _ in range(100):
        controller.observe(torch.tensor(1000.0), pace=0.0)

    assert controller.coefficient.item() == pytest.approx(0.5)
    assert controller.state()["l0_average"].item() == pytest.approx(1000.0)


def test_with_a_falling_learning_rate_it_moves_as_much_less() -> None:
    quick, slow = fresh(), fresh()
    for controller in (quick, slow):
        controller.observe(torch.tensor(35.0), pace=0.0)

    quick.observe(torch.tensor(35.0), pace=1.0)
    slow.observe(torch.tensor(35.0), pace=0.1)

    assert math.log(slow.coefficient.item()) == pytest.approx(0.1 * math.log(quick.coefficient.item()), rel=1e-3)


def test_one_restored_goes_on_bit_by_bit() -> None:
    whole = fresh()
    run(whole, Plant(), steps=100)
    resumed = fresh(coefficient=7.0)
    resumed.restore({name: value.clone() for name, value in whole.state().items()})
    assert resumed.coefficient.item() != 7.0

    for step in range(100):
        for controller in (whole, resumed):
            controller.observe(torch.tensor(50.0 - 0.3 * step))

    # Also what it may range over, which follows from the coefficient that training started with.
    assert {k: v.item() for k, v in whole.state().items()} == {k: v.item() for k, v in resumed.state().items()}


def test_it_goes_on_from_a_coefficient_set_by_hand() -> None:
    controller = fresh()
    run(controller, Plant(), steps=50)

    controller.move_to(0.25)

    assert controller.coefficient.item() == pytest.approx(0.25)
