"""The sparse kernels against hand-worked numbers and against plain autograd."""

import pytest
import torch
from torch import Tensor

from worker_image.sae.topk import plain_topk, topk_autoencode

TOKENS, D_IN, D_SAE = 70, 6, 20


def weights() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(TOKENS, D_IN), (D_SAE, D_IN), (D_SAE,), (D_SAE, D_IN)]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    return tuple(drawn)


def test_a_token_worked_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0]])
    W_enc = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    b_enc = torch.tensor([0.5, 0.0, 0.0])
    W_dec = torch.tensor([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    # Pre-activations 1.5, 2 and -1; the best two are latents 0 and 1.
    x_hat, acts, idx = topk_autoencode(x, W_enc, b_enc, W_dec, 2)
    assert idx.tolist() == [[0, 1]]
    assert acts.tolist() == [[1.5, 2.0]]
    assert x_hat.tolist() == [[1.5, 4.0]]


def test_kept_pre_activations_below_zero_count_as_zero() -> None:
    x_hat, acts, _ = topk_autoencode(-torch.ones(1, 2), torch.eye(2), torch.zeros(2), torch.ones(2, 2), 2)
    assert acts.tolist() == [[0.0, 0.0]]
    assert x_hat.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("k", [1, 5, D_SAE])
def test_forward_equals_the_plain_implementation(k: int) -> None:
    sparse, plain = topk_autoencode(*weights(), k), plain_topk(*weights(), k)
    torch.testing.assert_close(sparse[0], plain[0])
    order = plain[2].argsort(dim=1)
    torch.testing.assert_close(sparse[1], plain[1].gather(1, order))
    assert torch.equal(sparse[2], plain[2].gather(1, order))


@pytest.mark.parametrize("k", [1, 5, D_SAE])
def test_gradients_of_the_decoding_equal_plain_autograd(k: int) -> None:
    gradients = []
    for implementation in (topk_autoencode, plain_topk):
        leaves = weights()
        x_hat, _, _ = implementation(*leaves, k)
        (x_hat - leaves[0].detach()).square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for sparse, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(sparse, plain)


def test_gradients_that_reach_the_activations_directly_are_not_dropped() -> None:
    gradients = []
    for implementation in (topk_autoencode, plain_topk):
        leaves = weights()
        _, acts, _ = implementation(*leaves, 3)
        acts.square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves[:3]])
    for sparse, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(sparse, plain)


def test_gradients_agree_with_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda *leaves: topk_autoencode(*leaves, 3)[:2], weights())


def test_rows_are_the_same_in_whatever_batch_they_come() -> None:
    # More tokens than one chunk of the encoder holds.
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(1))
    W = torch.randn(70_000, 4, generator=torch.Generator().manual_seed(2))
    whole = topk_autoencode(x, W, torch.zeros(70_000), W, 4)
    part = topk_autoencode(x[200:], W, torch.zeros(70_000), W, 4)
    assert torch.equal(whole[2][200:], part[2])
    torch.testing.assert_close(whole[0][200:], part[0])
