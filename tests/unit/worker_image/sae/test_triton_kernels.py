"""The GPU's kernels against ordinary operations: on a GPU if there is one, else by Triton's interpreter."""

import pytest
import torch
from torch import Tensor

from worker_image.sae import sparse
from worker_image.sae.sparse import Pattern, _sampled_product, _sum_rows, decode, pre_at, select_topk

pytest.importorskip("triton", reason="there is no Triton for this kind of machine")
triton_kernels = pytest.importorskip("worker_image.sae.triton_kernels")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS, WIDTH, LATENTS = 6, 20, 40


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def a_pattern() -> Pattern:
    """Rows of several lengths, one of them empty."""
    mask_BF = drawn(ROWS, LATENTS) > torch.linspace(0, 4, ROWS).unsqueeze(1)
    return Pattern.of_rows(*mask_BF.nonzero(as_tuple=True), ROWS, LATENTS)


@pytest.mark.parametrize("block", [8, 512], ids=["width in parts", "width at once"])
def test_weighted_sums_of_rows(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "_WIDTH_BLOCK", block)
    pattern, table = a_pattern(), drawn(LATENTS, WIDTH, seed=1)
    weight = drawn(len(pattern.latent_N), seed=2)
    given = (pattern.start_B1, pattern.latent_N, weight, table)
    found = triton_kernels.sum_rows(*(part.to(DEVICE) for part in given))
    torch.testing.assert_close(found.cpu(), _sum_rows(*given))


@pytest.mark.parametrize("block", [8, 512], ids=["width in parts", "width at once"])
def test_products_sampled_at_the_positions(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "_WIDTH_BLOCK", block)
    pattern, y, table = a_pattern(), drawn(ROWS, WIDTH, seed=3), drawn(LATENTS, WIDTH, seed=1)
    given = (y, table, pattern.start_B1, pattern.latent_N)
    found = triton_kernels.sampled_product(*(part.to(DEVICE) for part in given))
    torch.testing.assert_close(found.cpu(), _sampled_product(y, table, pattern))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, -9.0], ids=["of both signs", "negative"])
@pytest.mark.parametrize("k", [1, 7, LATENTS])
@pytest.mark.parametrize("block", [16, 4096], ids=["row in parts", "row at once"])
def test_the_largest_of_each_row(
    block: int, k: int, offset: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_kernels, "_ROW_BLOCK", block)
    pre = (drawn(ROWS, LATENTS) + offset).to(dtype)
    values, idx = triton_kernels.largest(pre.to(DEVICE), k)
    assert torch.equal(idx.cpu(), idx.cpu().sort(dim=1).values)
    assert torch.equal(pre.gather(1, idx.cpu()), values.cpu())
    assert torch.equal(values.cpu().sort(dim=1, descending=True).values, pre.sort(dim=1, descending=True).values[:, :k])


def test_of_equals_in_a_row_the_first_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "_ROW_BLOCK", 8)
    pre = torch.ones(1, 32)
    pre[0, [3, 30]] = 2.0
    _, idx = triton_kernels.largest(pre.to(DEVICE), 6)
    assert idx.tolist() == [[0, 1, 2, 3, 4, 30]]


def test_what_is_not_a_number_ranks_highest() -> None:
    pre = torch.zeros(1, 32)
    pre[0, 20], pre[0, 5] = -float("nan"), float("inf")
    _, idx = triton_kernels.largest(pre.to(DEVICE), 2)
    assert idx.tolist() == [[5, 20]]


def test_a_step_through_the_kernels_has_the_gradients_of_the_ordinary_operations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for kernels in (None, triton_kernels):
        monkeypatch.setattr(sparse, "_gpu_kernels", lambda tensor, kernels=kernels: kernels)
        x, W_enc, b_enc, W_dec = (
            drawn(*shape, seed=seed).to(DEVICE).requires_grad_()
            for seed, shape in enumerate([(ROWS, WIDTH), (LATENTS, WIDTH), (LATENTS,), (LATENTS, WIDTH)])
        )
        pattern, pre = select_topk(x, W_enc, b_enc, 5)
        acts = pre_at(x, W_enc, b_enc, pattern, pre).relu()
        loss = (decode(acts, pattern, W_dec) - x.detach()).square().sum() + acts.sum()
        found.append([pattern.latent_N, *torch.autograd.grad(loss, [x, W_enc, b_enc, W_dec])])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
