"""The TopK autoencoder's arithmetic, sparse: only the K latents a token keeps are ever decoded or differentiated.

Shapes: B tokens, D = d_in, F = d_sae, K = k.

Dense training costs six products of B x D x F. Here one is left, the encoder's, and its (B, F) result is consumed a
part at a time while still in cache. Everything else is O(B K D) and is a sum of weighted rows, which
``embedding_bag`` computes without a (B, K, D) intermediate:

    decode            x_hat[b] = sum_k acts[b, k] W_dec[idx[b, k]]         a bag per token
    weight gradients  dW[f]    = sum_{b: f in idx[b]} g[b, f] y[b]         a bag per latent
    acts' gradient    dacts[b, k] = dx_hat[b] . W_dec[idx[b, k]]           a product sampled at the kept positions

The gradients are exact; ``plain_topk`` is the same function in ordinary autograd operations, used on devices for which
the sparse kernels were not measured and as the reference they are tested against.
"""

import math
import warnings

import torch
from torch import Tensor
from torch.nn import functional

_CHUNK_BYTES = 16 * 2**20
"""Pre-activations held at once: what stays in the last-level cache. Smaller chunks make the product itself slower."""

_LEAST_ROWS = 256
"""Fewer rows than this and the product no longer pays for reading the weights."""

with warnings.catch_warnings():
    # torch announces once per process that CSR tensors are in beta; nobody reading a job's log can act on it.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1), check_invariants=False)


def topk_autoencode(
    x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, W_dec_FD: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Encode, keep the ``k`` largest pre-activations that are above 0, decode.

    Returns ``(x_hat_BD, acts_BK, idx_BK)``: the decoding without any bias; the kept activations, 0 where fewer than k
    were above 0; the latents they belong to. Differentiable in ``x_BD`` and the weights.
    """
    if x_BD.device.type == "cpu":
        return _SparseTopK.apply(x_BD, W_enc_FD, b_enc_F, W_dec_FD, k)
    return plain_topk(x_BD, W_enc_FD, b_enc_F, W_dec_FD, k)


def plain_topk(
    x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, W_dec_FD: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``topk_autoencode`` in dense operations that autograd differentiates by itself."""
    pre_BF = functional.linear(x_BD, W_enc_FD, b_enc_F)
    top_BK, idx_BK = pre_BF.topk(k, dim=1, sorted=False)
    acts_BK = top_BK.relu()
    latents_BF = torch.zeros_like(pre_BF).scatter(1, idx_BK, acts_BK)
    return latents_BF @ W_dec_FD, acts_BK, idx_BK


class _SparseTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_BD, W_enc_FD, b_enc_F, W_dec_FD, k):  # type: ignore[no-untyped-def]
        acts_BK, idx_BK = _encode(x_BD, W_enc_FD, b_enc_F, k)
        x_hat_BD = _weighted_rows(idx_BK, acts_BK, W_dec_FD)
        ctx.save_for_backward(x_BD, W_enc_FD, W_dec_FD, acts_BK, idx_BK)
        ctx.mark_non_differentiable(idx_BK)
        ctx.set_materialize_grads(False)
        return x_hat_BD, acts_BK, idx_BK

    @staticmethod
    def backward(ctx, dx_hat_BD, dacts_BK, _didx):  # type: ignore[no-untyped-def]
        x_BD, W_enc_FD, W_dec_FD, acts_BK, idx_BK = ctx.saved_tensors
        by_latent = _ByLatent(idx_BK, W_enc_FD.shape[0])
        dW_dec_FD = None
        if dx_hat_BD is not None:
            dx_hat_BD = dx_hat_BD.contiguous()
            dW_dec_FD = by_latent.sum_rows(acts_BK, dx_hat_BD)
            decoded = _sampled_product(dx_hat_BD, W_dec_FD, idx_BK)
            dacts_BK = decoded if dacts_BK is None else decoded + dacts_BK
        if dacts_BK is None:
            return None, None, None, dW_dec_FD, None
        dpre_BK = torch.where(acts_BK > 0, dacts_BK, 0)
        dW_enc_FD = by_latent.sum_rows(dpre_BK, x_BD)
        db_enc_F = by_latent.sum(dpre_BK)
        dx_BD = _weighted_rows(idx_BK, dpre_BK, W_enc_FD) if ctx.needs_input_grad[0] else None
        return dx_BD, dW_enc_FD, db_enc_F, dW_dec_FD, None


def _encode(x_BD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest pre-activations, ReLU applied, and their latents in ascending order: each (B, K)."""
    n_chunks = math.ceil(len(x_BD) * W_enc_FD.shape[0] * x_BD.element_size() / _CHUNK_BYTES)
    rows = max(_LEAST_ROWS, math.ceil(len(x_BD) / n_chunks))
    top, idx = [], []
    for chunk_RD in x_BD.split(rows):
        values_RK, idx_RK = functional.linear(chunk_RD, W_enc_FD, b_enc_F).topk(k, dim=1, sorted=False)
        top.append(values_RK)
        idx.append(idx_RK)
    # CSR, which the gradient of acts uses, wants each row's columns ascending; rows then also read memory forwards.
    idx_BK, order_BK = torch.cat(idx).sort(dim=1)
    return torch.cat(top).relu_().gather(1, order_BK), idx_BK


def _weighted_rows(idx_BK: Tensor, weight_BK: Tensor, table_FD: Tensor) -> Tensor:
    """sum_k weight[b, k] table[idx[b, k]]: (B, D)."""
    return functional.embedding_bag(idx_BK, table_FD, per_sample_weights=weight_BK, mode="sum")


def _sampled_product(y_BD: Tensor, table_FD: Tensor, idx_BK: Tensor) -> Tensor:
    """y[b] . table[idx[b, k]]: (B, K). ``idx_BK`` ascends along each row."""
    n_rows, k = idx_BK.shape
    pattern = torch.sparse_csr_tensor(
        torch.arange(0, n_rows * k + 1, k),
        idx_BK.reshape(-1),
        y_BD.new_zeros(n_rows * k),
        (n_rows, table_FD.shape[0]),
        check_invariants=False,
    )
    return torch.sparse.sampled_addmm(pattern, y_BD, table_FD.T, beta=0.0).values().view(n_rows, k)


class _ByLatent:
    """The kept positions of a batch regrouped by latent, to sum over the tokens that kept each one."""

    def __init__(self, idx_BK: Tensor, d_sae: int) -> None:
        flat = idx_BK.reshape(-1)
        self._idx = flat
        self._d_sae = d_sae
        self._order = torch.argsort(flat, stable=True)
        self._token = self._order // idx_BK.shape[1]
        self._start_F = torch.bincount(flat, minlength=d_sae).cumsum(0).roll(1)
        self._start_F[0] = 0

    def sum_rows(self, weight_BK: Tensor, y_BD: Tensor) -> Tensor:
        """sum over tokens b that kept f of weight[b, f] y[b]: (F, D)."""
        return functional.embedding_bag(
            self._token, y_BD, self._start_F, per_sample_weights=weight_BK.reshape(-1)[self._order], mode="sum"
        )

    def sum(self, weight_BK: Tensor) -> Tensor:
        """sum over tokens b that kept f of weight[b, f]: (F,)."""
        return weight_BK.new_zeros(self._d_sae).index_add_(0, self._idx, weight_BK.reshape(-1))
