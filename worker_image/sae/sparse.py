"""The arithmetic of a sparse code: positions of the active latents, encoding at them, decoding from them.

Shapes: B tokens (rows), R rows of one chunk, D width encoded, E width decoded, F = d_sae, K latents per row,
N active positions of the batch, G groups of neighbouring latents.

Dense training costs six products of B x D x F. Here one is left, the encoder's, and its (B, F) result is consumed a
part at a time while still in cache: ``select_*`` keep the positions that a family wants and drop the rest. Everything
after that is O(N D) and is a sum of weighted rows or a product sampled at the positions:

    decode                x_hat[b] = sum_n acts[n] W_dec[f(n)]        over the positions n of row b
    decoder's gradient    dW[f]    = sum_n acts[n] dx_hat[b(n)]       over the positions n of latent f
    encoder's gradient    dW[f]    = sum_n dpre[n] x[b(n)]            over the positions n of latent f
    activations' gradient dacts[n] = dx_hat[b(n)] . W_dec[f(n)]

A weighted sum of rows is an ``embedding_bag``, which needs no (N, D) intermediate. Gradients are exact: at a position
that was not selected, the activation and its gradient are 0 by the family's definition.
"""

import importlib.util
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_CHUNK_BYTES = {"cpu": 16 * 2**20}
"""Pre-activations held at once: on a CPU what stays in the last-level cache. Smaller, and the product is slower."""

_CHUNK_BYTES_ELSEWHERE = 512 * 2**20

_LEAST_ROWS = 256
"""Fewer rows than this and the product no longer pays for reading the weights."""

_SAMPLE_ROWS = 64
"""Rows from which ``select_batch_topk`` guesses its threshold."""

_SAMPLE_MARGIN = 1.25
"""How many more than needed the guess should let through: rows differ, and one that is too high costs a second try."""

_SAME_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}

_HAS_TRITON = importlib.util.find_spec("triton") is not None

_PACKABLE: set[torch.dtype] = set()
"""Types whose products on the CPU go through oneDNN."""
if torch.backends.mkldnn.is_available():
    _PACKABLE.add(torch.float32)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        _PACKABLE.add(torch.bfloat16)
    if torch.ops.mkldnn._is_mkldnn_fp16_supported():
        _PACKABLE.add(torch.float16)

with warnings.catch_warnings():
    # torch announces once per process that CSR tensors are in beta; nobody reading a job's log can act on it.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1), check_invariants=False)


class ByLatent(NamedTuple):
    """The positions of a pattern regrouped by latent; rows ascend within each."""

    start_F1: Tensor
    """Where each latent's positions start, and the end of the last."""
    row_N: Tensor
    """Their rows."""
    order_N: Tensor
    """Their places in the pattern: ``values_N[order_N]`` regroups values."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """Positions of the active latents of a (B, F) matrix: row by row, latents ascending within a row."""

    start_B1: Tensor
    """Where each row's positions start, and the end of the last: int64."""
    latent_N: Tensor
    """The latent of each position: int64."""
    n_latents: int
    """F."""

    @classmethod
    def fixed(cls, idx_BK: Tensor, n_latents: int) -> "Pattern":
        """K positions in each row. ``idx_BK`` ascends along each row."""
        n_rows, k = idx_BK.shape
        start_B1 = torch.arange(n_rows + 1, device=idx_BK.device) * k
        return cls(start_B1, idx_BK.reshape(-1), n_latents)

    @classmethod
    def of_rows(cls, row_N: Tensor, latent_N: Tensor, n_rows: int, n_latents: int) -> "Pattern":
        """Positions given by row and latent, in the order of a pattern."""
        edges_B1 = torch.arange(n_rows + 1, device=row_N.device)
        pattern = cls(torch.searchsorted(row_N, edges_B1), latent_N, n_latents)
        pattern.__dict__["row_N"] = row_N
        return pattern

    @property
    def rows(self) -> int:
        """B."""
        return len(self.start_B1) - 1

    @cached_property
    def row_N(self) -> Tensor:
        """The row of each position."""
        rows_B = torch.arange(self.rows, device=self.start_B1.device)
        return rows_B.repeat_interleave(self.start_B1.diff(), output_size=len(self.latent_N))

    @cached_property
    def by_latent(self) -> ByLatent:
        """The positions regrouped by latent: worked out once, used by the gradients of both weights."""
        # A stable sort of integers is a parallel counting sort on the CPU.
        sorted_N, order_N = self.latent_N.to(torch.int32).sort(stable=True)
        edges_F1 = torch.arange(self.n_latents + 1, device=order_N.device, dtype=torch.int32)
        return ByLatent(torch.searchsorted(sorted_N, edges_F1), self.row_N[order_N], order_N)

    def sum_by_latent(self, values_N: Tensor) -> Tensor:
        """The sum of each latent's values: (F,)."""
        if values_N.device.type == "cpu" or not values_N.is_floating_point():
            return values_N.new_zeros(self.n_latents).index_add_(0, self.latent_N, values_N)
        # Elsewhere index_add adds floats in the order in which threads happen to arrive.
        by_latent = self.by_latent
        one_11 = values_N.new_ones(1, 1)
        place_N = torch.zeros_like(by_latent.row_N)
        return _sum_rows(by_latent.start_F1, place_N, values_N[by_latent.order_N], one_11).squeeze(1)

    def dense(self, values_N: Tensor) -> Tensor:
        """The (B, F) matrix that has ``values_N`` at these positions and 0 elsewhere; differentiable."""
        zeros_BF = values_N.new_zeros(self.rows, self.n_latents)
        return zeros_BF.index_put((self.row_N, self.latent_N), values_N)


class Chosen(NamedTuple):
    """Positions with their pre-activations."""

    pattern: Pattern
    pre_N: Tensor

    def split(self, rows: int) -> "list[Chosen]":
        """Those of the first ``rows`` rows, of the next ``rows``, and so on. The host waits for the device."""
        pattern = self.pattern
        edges = [*range(0, pattern.rows, rows), pattern.rows]
        places = pattern.start_B1[edges].tolist()
        found = []
        for (first, last), (start, end) in zip(pairwise(edges), pairwise(places), strict=True):
            part = Pattern(pattern.start_B1[first : last + 1] - start, pattern.latent_N[start:end], pattern.n_latents)
            found.append(Chosen(part, self.pre_N[start:end]))
        return found


# Selection: which positions are active. Nothing here is differentiable; ``pre_at`` is.


@torch.no_grad()
def select_topk(x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, k: int) -> tuple[Pattern, Tensor]:
    """The ``k`` largest pre-activations W_enc x + b_enc of each row, whatever their sign.

    The product runs in the type of ``W_enc_FD``; values come back in that of ``x_BD``.
    """
    values, latents = [], []
    # Comparing as integers would drop a negative "not a number", which only comes from what is not finite itself.
    as_integers = x_BD.device.type == "cpu" and all(map(_is_finite, (x_BD, W_enc_FD, b_enc_F)))
    for pre_RF in _pre_activations(x_BD, W_enc_FD, b_enc_F):
        values_RK, idx_RK = _largest_ascending(pre_RF, k, as_integers)
        values.append(values_RK)
        latents.append(idx_RK)
    return Pattern.fixed(torch.cat(latents), len(W_enc_FD)), torch.cat(values).to(x_BD.dtype).reshape(-1)


@torch.no_grad()
def select_batch_topk(
    x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, n_kept: int, scale_F: Tensor | None = None
) -> tuple[Pattern, Tensor]:
    """The ``n_kept`` largest pre-activations of the whole batch, ranked after multiplying each latent's by ``scale_F``
    (positive); values come back unscaled.

    On the CPU only those above 0 are kept, so there may be fewer, and of equals the first ones are. Elsewhere exactly
    ``n_kept`` are: their number must not depend on what the device computed, which the host would have to wait for.
    """
    if x_BD.device.type != "cpu":
        return _batch_topk_without_waiting(x_BD, W_enc_FD, b_enc_F, n_kept, scale_F)
    n_latents = len(W_enc_FD)
    scale_F = torch.ones_like(b_enc_F) if scale_F is None else scale_F
    share = _SAMPLE_MARGIN * n_kept / (len(x_BD) * n_latents) if len(x_BD) else 1.0
    while True:
        limit = _guess_limit(x_BD, W_enc_FD, b_enc_F, scale_F, share)
        pattern, pre_N = select_above(x_BD, W_enc_FD, b_enc_F, limit / scale_F)
        if limit == 0 or len(pre_N) >= n_kept:
            break
        share *= 2
    score_N = (pre_N * scale_F[pattern.latent_N]).nan_to_num(nan=float("inf"))
    if len(score_N) <= n_kept:
        return pattern, pre_N
    least = score_N.topk(n_kept, sorted=False).values.min()
    kept_N = score_N > least
    ties_N = score_N == least
    kept_N |= ties_N & (ties_N.cumsum(0) <= n_kept - kept_N.sum())
    return Pattern.of_rows(pattern.row_N[kept_N], pattern.latent_N[kept_N], len(x_BD), n_latents), pre_N[kept_N]


@torch.no_grad()
def select_above(x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, floor_F: Tensor) -> tuple[Pattern, Tensor]:
    """All positions whose pre-activation is above the floor of its latent.

    Of pre-activations that are not a number each row keeps the first, so that they reach the loss without filling the
    memory. The host learns the number of positions, so it waits for the device.
    """
    n_rows, n_latents = len(x_BD), len(W_enc_FD)
    rows, latents, values = [], [], []
    first_row = 0
    for pre_RF in _pre_activations(x_BD, W_enc_FD, b_enc_F):
        row_N, latent_N, pre_N = _above(pre_RF, floor_F.to(pre_RF.dtype))
        rows.append(row_N + first_row)
        latents.append(latent_N)
        values.append(pre_N)
        first_row += len(pre_RF)
    pattern = Pattern.of_rows(torch.cat(rows), torch.cat(latents), n_rows, n_latents)
    return pattern, torch.cat(values).to(x_BD.dtype)


def _pre_activations(x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor) -> Iterator[Tensor]:
    """W_enc x + b_enc, some rows at a time."""
    row_bytes = len(W_enc_FD) * W_enc_FD.element_size()
    n_chunks = math.ceil(len(x_BD) * row_bytes / _CHUNK_BYTES.get(x_BD.device.type, _CHUNK_BYTES_ELSEWHERE))
    rows = max(_LEAST_ROWS, math.ceil(len(x_BD) / max(n_chunks, 1)))
    encode = _affine(W_enc_FD, b_enc_F.to(W_enc_FD.dtype), rows)
    for chunk_RD in x_BD.split(rows):
        yield encode(chunk_RD.to(W_enc_FD.dtype))


def _affine(W_FD: Tensor, b_F: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """x -> W x + b, prepared for many products of ``rows`` rows with the same weights.

    On the CPU oneDNN reorders the weights once for all chunks, which takes a fiftieth of the time of the products and
    makes them a fifth faster than MKL's, which reorders them each time. torch has no public name for it.
    """
    if W_FD.device.type != "cpu" or W_FD.dtype not in _PACKABLE:
        return lambda x_RD: functional.linear(x_RD, W_FD, b_F)
    packed = torch.ops.mkldnn._reorder_linear_weight(W_FD.contiguous(), rows)
    return lambda x_RD: torch.ops.mkldnn._linear_pointwise(x_RD.contiguous(), packed, b_F, "none", [], "")


def _largest_ascending(pre_RF: Tensor, k: int, as_integers: bool) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row and where they are, in ascending order of place: each (R, K)."""
    if kernels := _gpu_kernels(pre_RF):
        return kernels.largest(pre_RF, k)
    values_RK, idx_RK = _largest_as_integers(pre_RF, k) if as_integers else _largest(pre_RF, k)
    idx_RK, order_RK = idx_RK.sort(dim=1)
    return values_RK.gather(1, order_RK), idx_RK


def _is_finite(values: Tensor) -> bool:
    """Whether all are, told by one sum, which in float16 would overflow."""
    return bool(values.sum(dtype=torch.promote_types(values.dtype, torch.float32)).isfinite())


def _largest_as_integers(pre_RF: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``_largest`` of what holds no "not a number". Positive floats are ordered as the integers that their bits spell,
    which the CPU compares faster, bfloat16 above all; negative ones are below them, in the wrong order."""
    bits_RK, idx_RK = _largest(pre_RF.view(_SAME_SIZE[pre_RF.element_size()]), k)
    if bits_RK.numel() and bits_RK.min() <= 0:
        return _largest(pre_RF, k)
    return bits_RK.view(pre_RF.dtype), idx_RK


def _largest(pre_RF: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row and where they are, in no order: each (R, K).

    The k largest lie in the k groups with the largest maxima: every group that is left out has at least k values as
    large as its own maximum elsewhere. Finding maxima is a vectorised pass, and selecting then looks at few. Groups are
    neighbours at first, because a few cache lines are then fetched for each; among what they hold, members of a group
    lie apart, because maxima of whole lines are found faster.
    """
    n_rows, n_latents = pre_RF.shape
    width = _group_width(n_latents, k, pre_RF.element_size())
    if width == 1:
        values_RK, idx_RK = pre_RF.topk(k, dim=1, sorted=False)
        return values_RK, idx_RK
    n_groups = n_latents // width
    groups_RK = pre_RF.view(n_rows, n_groups, width).amax(-1).topk(k, dim=1, sorted=False).indices
    first_R1 = torch.arange(n_rows, device=pre_RF.device).unsqueeze(1) * n_groups
    found_RC = pre_RF.view(-1, width).index_select(0, (groups_RK + first_R1).view(-1)).view(n_rows, k * width)

    depth = max(2, width // 8)
    stride = k * width // depth
    peaks_RK = found_RC.view(n_rows, depth, stride).amax(1).topk(k, dim=1, sorted=False).indices
    layers_D1 = torch.arange(depth, device=pre_RF.device).unsqueeze(1) * stride
    place_RC = (peaks_RK.unsqueeze(1) + layers_D1).view(n_rows, -1)
    values_RK, chosen_RK = found_RC.gather(1, place_RC).topk(k, dim=1, sorted=False)
    place_RK = place_RC.gather(1, chosen_RK)
    return values_RK, groups_RK.gather(1, place_RK // width) * width + place_RK % width


def _group_width(n_latents: int, k: int, element_size: int) -> int:
    """How many neighbours form a group: two cache lines, below which torch does not vectorise the maxima; fewer where
    there would not be enough groups; 1 where grouping does not pay."""
    width = 128 // element_size
    while n_latents % width or n_latents // width < 2 * k:
        width //= 2
        if width < 8:
            return 1
    return width


def _above(pre_RF: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(row, latent, value) of each position above the floor of its latent."""
    n_rows, n_latents = pre_RF.shape
    width = math.gcd(n_latents, 32)
    groups_RGW = pre_RF.view(n_rows, -1, width)
    floor_GW = floor_F.view(-1, width)
    peak_RG = groups_RGW.amax(-1)
    if peak_RG.isnan().any():
        groups_RGW = _one_nan_per_row(pre_RF).view_as(groups_RGW)
        peak_RG = groups_RGW.amax(-1)
    # "Not at or below", so that what is not a number passes.
    found_M = (~(peak_RG <= floor_GW.amin(-1))).view(-1).nonzero().squeeze(1)
    values_MW = groups_RGW.reshape(-1, width).index_select(0, found_M)
    kept_N = (~(values_MW <= floor_GW[found_M % len(floor_GW)])).view(-1).nonzero().squeeze(1)
    flat_N = found_M[kept_N // width] * width + kept_N % width
    return flat_N // n_latents, flat_N % n_latents, values_MW.view(-1)[kept_N]


def _one_nan_per_row(pre_RF: Tensor) -> Tensor:
    nan_RF = pre_RF.isnan()
    return pre_RF.masked_fill(nan_RF & (nan_RF.cumsum(1) > 1), float("-inf"))


def _guess_limit(x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, scale_F: Tensor, share: float) -> float:
    """A score that about ``share`` of all exceed, judged by rows spread over the batch; 0 when fewer are positive."""
    sample_RD = x_BD[:: max(1, len(x_BD) // _SAMPLE_ROWS)]
    score_M = torch.cat([pre_RF * scale_F for pre_RF in _pre_activations(sample_RD, W_enc_FD, b_enc_F)]).view(-1)
    n_above = math.ceil(share * len(score_M))
    if n_above >= len(score_M):
        return 0.0
    score_M = score_M.nan_to_num(nan=0.0)
    return max(0.0, score_M.topk(n_above, sorted=False).values.min().item())


def _batch_topk_without_waiting(
    x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, n_kept: int, scale_F: Tensor | None
) -> tuple[Pattern, Tensor]:
    """``select_batch_topk`` whose sizes depend on nothing that the device computes."""
    n_latents = len(W_enc_FD)
    n_kept = min(n_kept, len(x_BD) * n_latents)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    first_row = 0
    for pre_RF in _pre_activations(x_BD, W_enc_FD, b_enc_F):
        scores = (pre_RF if scale_F is None else pre_RF * scale_F).view(-1)
        score_N, place_N = scores.topk(min(n_kept, len(scores)), sorted=False)
        found = score_N, pre_RF.view(-1)[place_N], place_N + first_row * n_latents
        if best is not None:
            score_N, pre_N, flat_N = (torch.cat(pair) for pair in zip(best, found, strict=True))
            score_N, chosen_N = score_N.topk(n_kept, sorted=False)
            found = score_N, pre_N[chosen_N], flat_N[chosen_N]
        best = found
        first_row += len(pre_RF)
    assert best is not None, "a batch has tokens"
    _, pre_N, flat_N = best
    flat_N, order_N = flat_N.sort()
    pattern = Pattern.of_rows(flat_N // n_latents, flat_N % n_latents, len(x_BD), n_latents)
    return pattern, pre_N[order_N].to(x_BD.dtype)


# The differentiable part.


def centre(x_BD: Tensor, centre_D: Tensor) -> Tensor:
    """x - centre, whose gradient ``pre_at`` and ``affine`` find at a fraction of what it costs for all rows."""
    return _Centre.apply(x_BD, centre_D)


def affine(x_BD: Tensor, W_FD: Tensor, b_F: Tensor) -> Tensor:
    """W x + b, densely: (B, F)."""
    centre_D = getattr(x_BD.grad_fn, "only_centre_D", None)
    if centre_D is not None:
        # 0 as a number; its derivative is the centre's.
        b_F = b_F + W_FD @ (centre_D.detach() - centre_D)
        x_BD = x_BD.detach()
    return functional.linear(x_BD, W_FD, b_F)


def pre_at(x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, pattern: Pattern, pre_N: Tensor | None = None) -> Tensor:
    """W_enc x + b_enc at the positions of ``pattern``: (N,), differentiable in ``x_BD`` and the weights.

    ``pre_N`` are the values if a selection has found them already. Without them they are worked out from the weights
    given here, which is how an encoder that selects in half precision gets float32 values.
    """
    centre_D = getattr(x_BD.grad_fn, "only_centre_D", None)
    if centre_D is not None:
        # Minus the sum of all rows' gradients is minus W_enc^T times the gradient of b_enc.
        x_BD = x_BD.detach()
    return _PreAt.apply(x_BD, W_enc_FD, b_enc_F, pattern, pre_N, centre_D)


def decode(acts_N: Tensor, pattern: Pattern, W_dec_FE: Tensor) -> Tensor:
    """The sum of each row's latents weighted by their activations: (B, E), differentiable in both."""
    return _Decode.apply(acts_N, pattern, W_dec_FE)


class _Centre(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_BD, centre_D):  # type: ignore[no-untyped-def]
        if not ctx.needs_input_grad[0]:
            ctx.only_centre_D = centre_D
        return x_BD - centre_D

    @staticmethod
    def backward(ctx, dcentred_BD):  # type: ignore[no-untyped-def]
        need_x, need_centre = ctx.needs_input_grad
        return dcentred_BD if need_x else None, -dcentred_BD.sum(0) if need_centre else None


class _PreAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_BD, W_enc_FD, b_enc_F, pattern, pre_N, centre_D):  # type: ignore[no-untyped-def]
        ctx.pattern = pattern
        ctx.save_for_backward(x_BD, W_enc_FD)
        if pre_N is None:
            return _sampled_product(x_BD, W_enc_FD, pattern) + b_enc_F[pattern.latent_N]
        return pre_N.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, dpre_N):  # type: ignore[no-untyped-def]
        x_BD, W_enc_FD = ctx.saved_tensors
        pattern = ctx.pattern
        need_x, need_W, need_b, _, _, need_centre = ctx.needs_input_grad
        dx_BD = _sum_rows(pattern.start_B1, pattern.latent_N, dpre_N, W_enc_FD) if need_x else None
        dW_enc_FD = _sum_by_latent(pattern, dpre_N, x_BD) if need_W else None
        db_enc_F = pattern.sum_by_latent(dpre_N) if need_b or need_centre else None
        dcentre_D = -(db_enc_F @ W_enc_FD) if need_centre else None
        return dx_BD, dW_enc_FD, db_enc_F, None, None, dcentre_D


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, acts_N, pattern, W_dec_FE):  # type: ignore[no-untyped-def]
        ctx.pattern = pattern
        ctx.save_for_backward(acts_N, W_dec_FE)
        return _sum_rows(pattern.start_B1, pattern.latent_N, acts_N, W_dec_FE)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout_BE):  # type: ignore[no-untyped-def]
        acts_N, W_dec_FE = ctx.saved_tensors
        dout_BE = dout_BE.contiguous()
        need_acts, _, need_W = ctx.needs_input_grad
        dacts_N = _sampled_product(dout_BE, W_dec_FE, ctx.pattern) if need_acts else None
        dW_dec_FE = _sum_by_latent(ctx.pattern, acts_N, dout_BE) if need_W else None
        return dacts_N, None, dW_dec_FE


def _sum_by_latent(pattern: Pattern, weight_N: Tensor, y_BD: Tensor) -> Tensor:
    """sum over the positions n of latent f of weight[n] y[row(n)]: (F, D)."""
    by_latent = pattern.by_latent
    return _sum_rows(by_latent.start_F1, by_latent.row_N, weight_N[by_latent.order_N], y_BD)


def _sum_rows(start_C1: Tensor, place_N: Tensor, weight_N: Tensor, table_TD: Tensor) -> Tensor:
    """sum over n from start[c] to start[c + 1] of weight[n] table[place[n]]: (C, D)."""
    if not len(place_N):
        return table_TD.new_zeros(len(start_C1) - 1, table_TD.shape[1])
    if kernels := _gpu_kernels(table_TD):
        return kernels.sum_rows(start_C1, place_N, weight_N, table_TD)
    return functional.embedding_bag(
        place_N,
        table_TD.contiguous(),
        start_C1,
        per_sample_weights=weight_N.to(table_TD.dtype),
        mode="sum",
        include_last_offset=True,
    )


def _sampled_product(y_BD: Tensor, table_FD: Tensor, pattern: Pattern) -> Tensor:
    """y[row(n)] . table[latent(n)]: (N,)."""
    if kernels := _gpu_kernels(table_FD):
        return kernels.sampled_product(y_BD, table_FD, pattern.start_B1, pattern.latent_N)
    matrix_BF = torch.sparse_csr_tensor(
        pattern.start_B1,
        pattern.latent_N,
        y_BD.new_zeros(len(pattern.latent_N)),
        (pattern.rows, pattern.n_latents),
        check_invariants=False,
    )
    return torch.sparse.sampled_addmm(matrix_BF, y_BD, table_FD.T, beta=0.0).values()


def _gpu_kernels(tensor: Tensor) -> ModuleType | None:
    """The kernels for what is on a GPU; None where the ordinary operations serve."""
    if tensor.device.type != "cuda" or tensor.dtype == torch.float64 or not _HAS_TRITON:
        return None
    from worker_image.sae import triton_kernels

    return triton_kernels
