"""The sparse arithmetic as Triton kernels, for NVIDIA GPUs.

Shapes: R rows, D width, F = d_sae, K = k, N positions, C sums. Each kernel's host function takes and returns tensors
and neither waits for the device nor asks it for a size.

They are tested against the ordinary operations by Triton's interpreter; nobody has measured them on a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_WIDTH_BLOCK = 512
"""Most columns that a program holds at once."""

_ROW_BLOCK = 4096
"""Pre-activations of a row that a program looks at at once."""


def sum_rows(start_C1: Tensor, place_N: Tensor, weight_N: Tensor, table_TD: Tensor) -> Tensor:
    """sum over n from start[c] to start[c + 1] of weight[n] table[place[n]], added up in float32: (C, D)."""
    n_sums, width = len(start_C1) - 1, table_TD.shape[1]
    out_CD = table_TD.new_empty(n_sums, width)
    block = min(_WIDTH_BLOCK, triton.next_power_of_2(width))
    if n_sums:
        grid = (n_sums, triton.cdiv(width, block))
        _sum_rows[grid](start_C1, place_N, weight_N, table_TD.contiguous(), out_CD, width, BLOCK=block)
    return out_CD


def sampled_product(y_RD: Tensor, table_FD: Tensor, start_R1: Tensor, latent_N: Tensor) -> Tensor:
    """y[row(n)] . table[latent(n)], added up in float32, in the type of ``y_RD``: (N,)."""
    width = y_RD.shape[1]
    out_N = y_RD.new_empty(len(latent_N))
    block = min(_WIDTH_BLOCK, triton.next_power_of_2(width))
    if len(y_RD):
        table_FD = table_FD.contiguous()
        _sampled_product[(len(y_RD),)](start_R1, latent_N, y_RD.contiguous(), table_FD, out_N, width, BLOCK=block)
    return out_N


def largest(pre_RF: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row (float32, bfloat16 or float16) and where they are, in ascending order of place; of
    equals the first: each (R, K)."""
    n_rows, n_latents = pre_RF.shape
    values_RK = pre_RF.new_empty(n_rows, k)
    idx_RK = torch.empty(n_rows, k, dtype=torch.int64, device=pre_RF.device)
    if n_rows:
        block = min(_ROW_BLOCK, triton.next_power_of_2(n_latents))
        _largest[(n_rows,)](pre_RF.contiguous(), values_RK, idx_RK, n_latents, k, BLOCK=block)
    return values_RK, idx_RK


@triton.jit
def _sum_rows(start, place, weight, table, out, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for n in range(tl.load(start + row), tl.load(start + row + 1)):
        of = tl.load(place + n).to(tl.int64)
        total += tl.load(weight + n).to(tl.float32) * tl.load(table + of * width + columns, inside, 0.0).to(tl.float32)
    tl.store(out + row * width + columns, total.to(out.dtype.element_ty), inside)


@triton.jit
def _sampled_product(start, latent, y, table, out, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    for n in range(tl.load(start + row), tl.load(start + row + 1)):
        of = tl.load(latent + n).to(tl.int64)
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        for first in range(0, width, BLOCK):
            columns = first + offsets
            inside = columns < width
            left = tl.load(y + row * width + columns, inside, 0.0).to(tl.float32)
            total += left * tl.load(table + of * width + columns, inside, 0.0).to(tl.float32)
        tl.store(out + n, tl.sum(total, 0).to(out.dtype.element_ty))


@triton.jit
def _ranks(values, inside):  # type: ignore[no-untyped-def]
    """Integers in the order of the floats: the bits of a positive float ascend with it, those of a negative one
    descend. What is not a number ranks highest, what is outside lowest."""
    bits = values.to(tl.float32).to(tl.int32, bitcast=True)
    rank = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)
    rank = tl.where(values != values, 0x7FFFFFFF, rank)
    return tl.where(inside, rank, -0x80000001)


@triton.jit
def _largest(pre, values, idx, n_latents, k, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    pre += row * n_latents
    # The k-th largest rank by bisection: at least k are not below ``low``, fewer than k not below ``high``.
    low = tl.full((), -0x80000000, tl.int64)
    high = tl.full((), 0x80000000, tl.int64)
    for _ in range(32):
        middle = (low + high) // 2
        count = tl.zeros((), dtype=tl.int32)
        for first in range(0, n_latents, BLOCK):
            columns = first + offsets
            inside = columns < n_latents
            rank = _ranks(tl.load(pre + columns, inside, 0.0), inside)
            count += tl.sum((rank >= middle).to(tl.int32), 0)
        enough = count >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    above = tl.zeros((), dtype=tl.int32)
    for first in range(0, n_latents, BLOCK):
        columns = first + offsets
        inside = columns < n_latents
        rank = _ranks(tl.load(pre + columns, inside, 0.0), inside)
        above += tl.sum((rank > low).to(tl.int32), 0)
    # All above it, and of those that equal it as many as are missing, each stored at its place among the kept.
    ties_left = k - above
    stored = tl.zeros((), dtype=tl.int32)
    for first in range(0, n_latents, BLOCK):
        columns = first + offsets
        inside = columns < n_latents
        value = tl.load(pre + columns, inside, 0.0)
        rank = _ranks(value, inside)
        tie = (rank == low).to(tl.int32)
        keep = (rank > low) | ((tie > 0) & (tl.cumsum(tie, 0) <= ties_left))
        at = row * k + stored + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(values + at, value, keep)
        tl.store(idx + at, columns.to(tl.int64), keep)
        stored += tl.sum(keep.to(tl.int32), 0)
        ties_left -= tl.sum(tie, 0)
