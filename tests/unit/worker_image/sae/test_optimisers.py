"""Each optimiser's first steps, worked by hand."""

import math
from itertools import pairwise

import pytest
import torch

from worker_image.sae.config import SaeConfig
from worker_image.sae.optimisers import Muon, Signum, build_optimizer, orthogonalised
from worker_image.sae.schedule import lr_factor


def parameter(values: list[float] | list[list[float]], gradient: object) -> torch.nn.Parameter:
    made = torch.nn.Parameter(torch.tensor(values))
    made.grad = torch.tensor(gradient)
    return made


def test_signum_moves_by_the_rate_against_the_sign_of_the_average() -> None:
    weight = parameter([1.0, 1.0, 1.0], [0.3, -20.0, 0.0])
    optimizer = Signum([{"params": [weight]}], lr=0.1, momentum=0.5)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.9, 1.1, 1.0]))
    # The average is now (0.075 - 0.5, -5 + 5, 0): of opposite sign, nothing, nothing.
    weight.grad = torch.tensor([-1.0, 10.0, 0.0])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([1.0, 1.1, 1.0]))


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_orthogonalising_keeps_directions_and_evens_out_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = torch.linalg.svdvals(orthogonalised(matrix))
    assert found.min() > 0.6
    assert found.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    closest = left @ right
    assert torch.cosine_similarity(orthogonalised(matrix).flatten(), closest.flatten(), dim=0) > 0.95


def test_muon_steps_matrices_orthogonally_and_the_rest_as_adam() -> None:
    matrix = parameter([[1.0, 0.0], [0.0, 1.0]], [[100.0, 0.0], [0.0, -0.01]])
    bias = parameter([1.0, 1.0], [100.0, -0.01])
    Muon([{"params": [matrix, bias]}], lr=0.1, momentum=0.9, betas=(0.9, 0.999), eps=1e-12).step()
    # Adam's first step is the rate, whatever the gradient.
    torch.testing.assert_close(bias.detach(), torch.tensor([0.9, 1.1]))
    assert matrix[0, 0].item() == pytest.approx(0.9, abs=0.04)
    assert abs(matrix[0, 1].item()) < 1e-6


def test_a_matrix_without_gradient_stays_where_it_is() -> None:
    matrix = parameter([[1.0, 2.0]], [[0.0, 0.0]])
    Muon([{"params": [matrix]}], lr=0.1, momentum=0.9, betas=(0.9, 0.999), eps=1e-12).step()
    assert matrix.tolist() == [[1.0, 2.0]]


def test_sgd_follows_its_momentum() -> None:
    weight = parameter([1.0], [2.0])
    config = SaeConfig(d_in=1, d_sae=1, optimizer="sgd", lr=0.1, momentum=0.5)
    optimizer = build_optimizer(config, [{"params": [weight]}])
    optimizer.step()
    optimizer.step()
    # 0.1 x 2, then 0.1 x (0.5 x 2 + 2).
    assert weight.item() == pytest.approx(1 - 0.2 - 0.3)


def test_an_exponential_fall_loses_the_same_share_in_each_step() -> None:
    config = SaeConfig(d_in=1, d_sae=1, steps=10, lr_schedule="exponential", decay_fraction=1.0)
    shares = [lr_factor(step, config) for step in range(10)]
    ratios = [after / before for before, after in pairwise(shares)]
    assert ratios == pytest.approx([math.exp(math.log(0.01) / 11)] * 9)
    assert shares[0] < 1
