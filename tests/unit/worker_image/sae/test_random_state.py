"""Random state: every generator goes on where it stood."""

import random

import numpy as np
import pytest
import torch

from worker_image.sae.random_state import random_state, restore_random_state


def draw() -> list[float]:
    """From each generator, the one after a half-used pair of normal numbers too."""
    return [torch.rand(1).item(), np.random.normal(), np.random.rand(), random.gauss(0, 1), random.random()]


@pytest.mark.parametrize("drawn_before", [0, 1], ids=["fresh", "with a normal number in hand"])
def test_every_generator_is_put_back(drawn_before: int) -> None:
    for _ in range(drawn_before):
        draw()
    state = random_state()
    wanted = draw() + draw()
    restore_random_state(state.tensors, state.values)
    assert draw() + draw() == wanted


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(KeyError):
        restore_random_state({}, {})
