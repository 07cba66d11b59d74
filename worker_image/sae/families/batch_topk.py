"""BatchTopK: the k B largest pre-activations of a batch of B tokens (arXiv 2412.06410).

Shapes: B tokens, D = d_in, F = d_sae, N active positions, S tokens of a batch.
"""

import torch
from torch import Tensor

from worker_image.sae.code import Code, encode_above, encode_chosen
from worker_image.sae.model import Sae
from worker_image.sae.sparse import Chosen, select_batch_topk


class BatchTopKSae(Sae):
    """acts = ReLU(pre) at the k B largest of the batch; deployed, wherever pre exceeds ``threshold``.

    ``threshold`` is one number, not a number until it has been calibrated on held-out activations.
    """

    threshold: Tensor

    def add_parameters(self, device: torch.device | str) -> None:
        self.register_buffer("threshold", torch.full((), float("nan"), device=device))

    def encode(self, x_BD: Tensor, *, deployed: bool = False) -> Code:
        if deployed:
            return self._above_threshold(x_BD)
        return encode_chosen(x_BD, self.encoder_FD, self.b_enc_F, self.choose(x_BD))

    def choose(self, x_BD: Tensor) -> Chosen:
        lookup, n_kept = self.lookup(x_BD), self.config.k * len(x_BD)
        pattern, found_N = select_batch_topk(lookup.x_BD, lookup.W_FD, lookup.b_F, n_kept)
        return Chosen(pattern, lookup.unscaled(found_N, x_BD))

    @torch.no_grad()
    def bar(self, x_BD: Tensor, tokens_S: Tensor) -> Tensor:
        pre_N = self.choose(self.centred(x_BD)).pre_N
        is_full = len(pre_N) == self.config.k * len(x_BD)
        return (pre_N.min().clamp_min(0) if is_full else pre_N.new_zeros(())).expand(len(tokens_S))

    def _above_threshold(self, x_BD: Tensor) -> Code:
        if self.threshold.isnan():
            raise RuntimeError("the threshold is not calibrated yet")
        floor_F = self.threshold.clamp_min(0).expand(self.config.d_sae)
        pre_P, places = encode_above(x_BD, self.encoder_FD, self.b_enc_F, floor_F)
        return Code(pre_P * (pre_P > self.threshold.clamp_min(0)), pre_P, places)
