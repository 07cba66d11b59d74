"""The sparse kernels against hand-worked numbers and against plain autograd."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from worker_image.sae import sparse
from worker_image.sae.sparse import (
    Pattern,
    affine,
    centre,
    decode,
    pre_at,
    select_above,
    select_batch_topk,
    select_topk,
)

TOKENS, D_IN, D_OUT, D_SAE = 30, 6, 5, 24


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def leaves() -> dict[str, Tensor]:
    """x, W_enc, b_enc, W_dec."""
    shapes = {"x": (TOKENS, D_IN), "W_enc": (D_SAE, D_IN), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_OUT)}
    return {name: drawn(*shape, seed=seed).requires_grad_() for seed, (name, shape) in enumerate(shapes.items())}


def pattern_of(mask_BF: Tensor) -> Pattern:
    row_N, latent_N = mask_BF.nonzero(as_tuple=True)
    return Pattern.of_rows(row_N, latent_N, *mask_BF.shape)


PATTERNS = {
    "the same number in each row": pattern_of(torch.arange(D_SAE).expand(TOKENS, -1) % 5 == 2),
    "rows of all lengths, some empty": pattern_of(
        drawn(TOKENS, D_SAE, seed=9) > torch.linspace(-1, 3, TOKENS).unsqueeze(1)
    ),
    "latents that nobody keeps": pattern_of((drawn(TOKENS, D_SAE, seed=8) > 0) & (torch.arange(D_SAE) > 10)),
    "nothing": pattern_of(torch.zeros(TOKENS, D_SAE, dtype=torch.bool)),
    "everything": pattern_of(torch.ones(TOKENS, D_SAE, dtype=torch.bool)),
}
all_patterns = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())


def plain_pre_at(x: Tensor, W_enc: Tensor, b_enc: Tensor, pattern: Pattern) -> Tensor:
    return functional.linear(x, W_enc, b_enc)[pattern.row_N, pattern.latent_N]


def plain_decode(acts_N: Tensor, pattern: Pattern, W_dec: Tensor) -> Tensor:
    return pattern.dense(acts_N) @ W_dec


def gradients(loss: Tensor, of: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(
        zip(of, torch.autograd.grad(loss, list(of.values()), allow_unused=True, materialize_grads=True), strict=True)
    )


# Selection


def test_top_k_of_a_token_worked_by_hand() -> None:
    W_enc = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    # Pre-activations 1.5, 2 and -1.
    pattern, pre = select_topk(torch.tensor([[1.0, 2.0]]), W_enc, torch.tensor([0.5, 0.0, 0.0]), 2)
    assert pattern.latent_N.tolist() == [0, 1]
    assert pre.tolist() == [1.5, 2.0]


def test_top_k_over_a_batch_worked_by_hand() -> None:
    x = torch.tensor([[3.0, 1.0], [0.5, -2.0], [2.0, 4.0]])
    pattern, pre = select_batch_topk(x, torch.eye(2), torch.zeros(2), 3)
    assert pattern.start_B1.tolist() == [0, 1, 1, 3]
    assert pattern.latent_N.tolist() == [0, 0, 1]
    assert pre.tolist() == [3.0, 2.0, 4.0]


def test_a_scale_changes_the_rank_and_not_the_value() -> None:
    x = torch.tensor([[3.0, 1.0], [2.0, 0.5]])
    pattern, pre = select_batch_topk(x, torch.eye(2), torch.zeros(2), 2, torch.tensor([0.1, 1.0]))
    assert pattern.latent_N.tolist() == [1, 1]
    assert pre.tolist() == [1.0, 0.5]


def test_above_its_floor_worked_by_hand() -> None:
    x = torch.tensor([[3.0, 1.0], [-1.0, 0.5], [2.0, -4.0]])
    pattern, pre = select_above(x, torch.eye(2), torch.zeros(2), torch.tensor([2.0, -1.0]))
    assert pattern.start_B1.tolist() == [0, 2, 3, 3]
    assert pattern.latent_N.tolist() == [0, 1, 1]
    assert pre.tolist() == [3.0, 1.0, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, -9.0], ids=["positive", "negative too"])
@pytest.mark.parametrize(
    ("n_latents", "k"), [(24, 1), (24, 24), (1024, 3), (1000, 32), (997, 5), (512, 400), (2048, 16), (4096, 200)]
)
def test_top_k_is_that_of_the_whole_row(n_latents: int, k: int, offset: float, dtype: torch.dtype) -> None:
    x, W_enc, b_enc = drawn(40, D_IN).to(dtype), drawn(n_latents, D_IN, seed=1).to(dtype), drawn(n_latents, seed=2)
    b_enc = b_enc.to(dtype) + offset
    pattern, pre = select_topk(x, W_enc, b_enc, k)
    expected = functional.linear(x, W_enc, b_enc).topk(k, dim=1).indices.sort(dim=1).values
    assert torch.equal(pattern.latent_N.view(40, k), expected)
    torch.testing.assert_close(pre, plain_pre_at(x, W_enc, b_enc, pattern))


def test_top_k_in_bfloat16_is_that_of_the_rounded_row() -> None:
    x, W_enc, b_enc = (part.bfloat16() for part in (drawn(40, D_IN), drawn(8192, D_IN, seed=1), drawn(8192, seed=2)))
    _, pre = select_topk(x, W_enc, b_enc, 32)
    expected = functional.linear(x, W_enc, b_enc).topk(32, dim=1).values
    torch.testing.assert_close(pre.view(40, 32).sort(dim=1, descending=True).values, expected)


def test_one_weight_that_is_not_a_number_shows_in_every_row() -> None:
    W_enc = torch.ones(1024, 2)
    W_enc[700, 0] = float("-inf")
    W_enc[700, 1] = float("inf")
    pattern, pre = select_topk(torch.ones(4, 2), W_enc, torch.zeros(1024), 8)
    assert (pattern.latent_N.view(4, 8) == 700).sum(1).tolist() == [1] * 4
    assert pre.view(4, 8).isnan().sum(1).tolist() == [1] * 4


def test_top_k_among_equals_keeps_k_different_latents() -> None:
    pattern, pre = select_topk(torch.ones(3, 1), torch.ones(1024, 1), torch.zeros(1024), 8)
    assert [len(set(row)) for row in pattern.latent_N.view(3, 8).tolist()] == [8, 8, 8]
    assert pre.tolist() == [1.0] * 24


@pytest.mark.parametrize("n_kept", [1, 40, 300])
@pytest.mark.parametrize("scaled", [False, True])
def test_top_k_of_the_batch_is_that_of_the_flat_matrix(n_kept: int, scaled: bool) -> None:
    # Rows of very different size, so that the sampled ones mislead.
    x, W_enc, b_enc = (
        drawn(200, D_IN) * torch.linspace(0, 3, 200).unsqueeze(1),
        drawn(64, D_IN, seed=1),
        drawn(64, seed=2),
    )
    scale = drawn(64, seed=3).abs() + 0.1 if scaled else torch.ones(64)
    pattern, pre = select_batch_topk(x, W_enc, b_enc, n_kept, scale if scaled else None)
    score = functional.linear(x, W_enc, b_enc) * scale
    mask = torch.zeros_like(score).view(-1).index_fill(0, score.view(-1).topk(n_kept).indices, 1).view_as(score)
    assert torch.equal(pattern.dense(torch.ones_like(pre)), mask)
    torch.testing.assert_close(pre, plain_pre_at(x, W_enc, b_enc, pattern))


def test_a_guess_that_is_too_high_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "_SAMPLE_ROWS", 1)
    x = torch.cat([torch.full((1, 1), 100.0), torch.ones(50, 1)])
    W_enc = torch.linspace(1, 2, 32).unsqueeze(1)
    pattern, _ = select_batch_topk(x, W_enc, torch.zeros(32), 100)
    assert len(pattern.latent_N) == 100
    assert int(pattern.start_B1[1]) == 32


def test_of_equals_in_the_batch_the_first_are_kept() -> None:
    pattern, _ = select_batch_topk(torch.ones(4, 1), torch.ones(16, 1), torch.zeros(16), 20)
    assert pattern.row_N.tolist() == [0] * 16 + [1] * 4
    assert pattern.latent_N.tolist() == [*range(16), *range(4)]


def test_over_a_batch_only_what_is_above_zero_is_kept() -> None:
    pattern, pre = select_batch_topk(torch.tensor([[1.0], [-1.0]]), torch.ones(16, 1), torch.zeros(16), 20)
    assert pattern.start_B1.tolist() == [0, 16, 16]
    assert (pre > 0).all()


@pytest.mark.parametrize("n_latents", [24, 37, 256])
def test_all_above_their_floors_are_kept(n_latents: int) -> None:
    x, W_enc, b_enc = drawn(40, D_IN), drawn(n_latents, D_IN, seed=1), drawn(n_latents, seed=2)
    floor = drawn(n_latents, seed=3) + 2
    pattern, pre = select_above(x, W_enc, b_enc, floor)
    above = functional.linear(x, W_enc, b_enc) > floor
    assert torch.equal(pattern.dense(torch.ones_like(pre)).bool(), above)
    torch.testing.assert_close(pre, plain_pre_at(x, W_enc, b_enc, pattern))


@pytest.mark.parametrize("select", ["topk", "batch_topk", "above"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_is_not_a_number_is_never_dropped(select: str, sign: float) -> None:
    x = torch.ones(4, 2)
    x[2, 0] = torch.copysign(torch.tensor(float("nan")), torch.tensor(sign))
    W_enc, b_enc = torch.ones(64, 2), torch.zeros(64)
    if select == "topk":
        pattern, pre = select_topk(x, W_enc, b_enc, 2)
    elif select == "batch_topk":
        pattern, pre = select_batch_topk(x, W_enc, b_enc, 8)
    else:
        pattern, pre = select_above(x, W_enc, b_enc, torch.full((64,), 1.0))
    assert pre[pattern.row_N == 2].isnan().any()
    assert pre[pattern.row_N != 2].isfinite().all()


@pytest.mark.parametrize("select", ["topk", "batch_topk", "above"])
def test_rows_are_the_same_in_whatever_chunks_they_come(select: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, W_enc, b_enc = drawn(50, D_IN), drawn(64, D_IN, seed=1), drawn(64, seed=2)
    found = []
    for rows in (64, 7):
        monkeypatch.setattr(sparse, "_LEAST_ROWS", rows)
        monkeypatch.setattr(sparse, "_CHUNK_BYTES", {"cpu": 1})
        found.append(
            {
                "topk": lambda: select_topk(x, W_enc, b_enc, 5),
                "batch_topk": lambda: select_batch_topk(x, W_enc, b_enc, 200),
                "above": lambda: select_above(x, W_enc, b_enc, torch.ones(64)),
            }[select]()
        )
    (whole, whole_pre), (parts, parts_pre) = found
    assert torch.equal(whole.start_B1, parts.start_B1)
    assert torch.equal(whole.latent_N, parts.latent_N)
    torch.testing.assert_close(whole_pre, parts_pre)


def test_an_encoder_in_bfloat16_gives_values_of_the_input_s_type() -> None:
    x, W_enc, b_enc = drawn(40, D_IN).float(), drawn(64, D_IN, seed=1).float(), drawn(64, seed=2).float()
    pattern, pre = select_topk(x, W_enc.bfloat16(), b_enc, 4)
    assert pre.dtype == torch.float32
    torch.testing.assert_close(pre, plain_pre_at(x, W_enc, b_enc, pattern), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("scaled", [False, True])
def test_off_the_cpu_the_batch_keeps_the_same_positions(scaled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "_LEAST_ROWS", 7)
    monkeypatch.setattr(sparse, "_CHUNK_BYTES", {"cpu": 1})
    x, W_enc, b_enc = drawn(50, D_IN), drawn(64, D_IN, seed=1), drawn(64, seed=2)
    scale = drawn(64, seed=3).abs() + 0.1 if scaled else None
    here = select_batch_topk(x, W_enc, b_enc, 200, scale)
    there = sparse._batch_topk_without_waiting(x, W_enc, b_enc, 200, scale)
    assert torch.equal(here[0].start_B1, there[0].start_B1)
    assert torch.equal(here[0].latent_N, there[0].latent_N)
    torch.testing.assert_close(here[1], there[1])


# Patterns


def test_regrouping_by_latent_keeps_every_position() -> None:
    pattern = PATTERNS["rows of all lengths, some empty"]
    start, row, order = pattern.by_latent
    latent = pattern.latent_N[order]
    assert torch.equal(latent, latent.sort().values)
    assert torch.equal(pattern.row_N[order], row)
    assert torch.equal(start.diff(), torch.bincount(pattern.latent_N, minlength=D_SAE))


@all_patterns
def test_the_row_of_each_position(pattern: Pattern) -> None:
    assert torch.equal(Pattern(pattern.start_B1, pattern.latent_N, D_SAE).row_N, pattern.row_N)


# Gradients


@all_patterns
def test_gradients_of_the_decoding_equal_plain_autograd(pattern: Pattern) -> None:
    found = []
    for encoded, decoded in ((pre_at, decode), (plain_pre_at, plain_decode)):
        of = leaves()
        x_hat = decoded(encoded(of["x"], of["W_enc"], of["b_enc"], pattern).relu(), pattern, of["W_dec"])
        found.append((x_hat, gradients((x_hat - drawn(TOKENS, D_OUT, seed=7)).square().sum(), of)))
    torch.testing.assert_close(*found)


@all_patterns
def test_gradients_that_reach_the_activations_directly_are_not_dropped(pattern: Pattern) -> None:
    found = []
    for encoded, decoded in ((pre_at, decode), (plain_pre_at, plain_decode)):
        of = leaves()
        acts = encoded(of["x"], of["W_enc"], of["b_enc"], pattern).relu()
        loss = decoded(acts, pattern, of["W_dec"]).square().sum() + (acts.square() * pattern.latent_N).sum()
        found.append(gradients(loss, of))
    torch.testing.assert_close(*found)


@all_patterns
@pytest.mark.parametrize("fixed", [True, False], ids=["data", "data that wants a gradient"])
def test_a_centre_gets_the_gradient_of_what_was_taken_off(pattern: Pattern, fixed: bool) -> None:
    found = []
    for centred, encoded in ((centre, pre_at), (torch.sub, plain_pre_at)):
        of = leaves() | {"centre": drawn(D_IN, seed=6).requires_grad_()}
        x = centred(of["x"].detach() if fixed else of["x"], of["centre"])
        pre = encoded(x, of["W_enc"], of["b_enc"], pattern)
        # Read in another way too, as AuxK does.
        found.append(gradients((pre.square() * pattern.latent_N).sum() + x.square().sum(), of))
    torch.testing.assert_close(*found)


def test_a_centre_gets_its_gradient_from_a_dense_product_too() -> None:
    found = []
    for centred, encoded in ((centre, affine), (torch.sub, functional.linear)):
        of = leaves() | {"centre": drawn(D_IN, seed=6).requires_grad_()}
        pre = encoded(centred(of["x"].detach(), of["centre"]), of["W_enc"], of["b_enc"])
        found.append((pre, gradients(pre.square().sum(), of)))
    torch.testing.assert_close(*found)


@all_patterns
def test_gradients_agree_with_finite_differences(pattern: Pattern) -> None:
    def code(x: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor) -> tuple[Tensor, Tensor]:
        pre = pre_at(x, W_enc, b_enc, pattern)
        return pre, decode(pre, pattern, W_dec)

    assert torch.autograd.gradcheck(code, tuple(leaves().values()))


def test_values_that_were_found_already_are_not_computed_again() -> None:
    pattern, of = PATTERNS["the same number in each row"], leaves()
    found = drawn(len(pattern.latent_N), seed=5)
    assert torch.equal(pre_at(of["x"], of["W_enc"], of["b_enc"], pattern, found), found)


def test_the_gradient_of_an_expanded_reconstruction_is_right() -> None:
    # Its gradient has stride 0, which the kernels cannot read as it is.
    pattern = PATTERNS["rows of all lengths, some empty"]
    found = []
    for decoded in (decode, plain_decode):
        acts, W_dec = drawn(len(pattern.latent_N)).requires_grad_(), drawn(D_SAE, D_OUT).requires_grad_()
        found.append(torch.autograd.grad(decoded(acts, pattern, W_dec).sum(), [acts, W_dec]))
    torch.testing.assert_close(*found)
