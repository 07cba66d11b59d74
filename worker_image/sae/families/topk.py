"""TopK: the k largest pre-activations of each token (arXiv 2406.04093).

Shapes: B tokens, D = d_in, E = width_out, F = d_sae, N active positions, S tokens of a batch,
P places of each.
"""

import torch
from torch import Tensor

from worker_image.sae.code import Code, Places
from worker_image.sae.metrics import fvu
from worker_image.sae.model import FamilyLoss, Output, Sae
from worker_image.sae.sparse import pre_at, select_topk
from worker_image.sae.whole_batch import WholeBatch

_MULTI = 4
"""Multi-TopK learns the reconstruction from this many times k latents too, ..."""
_MULTI_WEIGHT = 1 / 8
"""... with this weight."""


class TopKSae(Sae):
    """acts = ReLU(TopK(W_enc (x - b_dec) + b_enc)).

    With Multi-TopK the code has the places of 4 k latents, of which k are active: one search serves both losses.
    """

    def encode(self, x_BD: Tensor, *, deployed: bool = False) -> Code:
        k, d_sae = self.config.k, self.config.d_sae
        n_places = min(_MULTI * k, d_sae) if self.config.multi_topk and not deployed else k
        lookup = self.lookup(x_BD, deployed=deployed)
        pattern, found_N = select_topk(lookup.x_BD, lookup.W_FD, lookup.b_F, n_places)
        pre_N = pre_at(x_BD, self.encoder_FD, self.b_enc_F, pattern, lookup.unscaled(found_N, x_BD))
        acts_N = torch.relu(pre_N)
        if n_places > k:
            idx_BK = found_N.view(-1, n_places).topk(k, dim=1, sorted=False).indices
            kept_BP = torch.zeros(len(idx_BK), n_places, dtype=torch.bool, device=x_BD.device).scatter(1, idx_BK, True)
            acts_N = acts_N * kept_BP.view(-1)
        return Code(acts_N, pre_N, Places((len(x_BD), d_sae), pattern))

    @torch.no_grad()
    def bar(self, x_BD: Tensor, tokens_S: Tensor) -> Tensor:
        pre_SP = self.encode(self.centred(x_BD[tokens_S])).pre_P.view(len(tokens_S), -1)
        return pre_SP.topk(self.config.k, dim=1).values[:, -1].clamp_min(0)

    def losses(self, x_BD: Tensor, y_BE: Tensor, out: Output, dead_S: Tensor, whole: WholeBatch) -> FamilyLoss:
        reconstruction = fvu(y_BE, out.y_hat_BE, whole.variance)
        if not self.config.multi_topk:
            return FamilyLoss(reconstruction)
        y_hat_BE = self.complete(x_BD, out.code.decode(self.W_dec_FE, torch.relu(out.code.pre_P)))
        return FamilyLoss(reconstruction, extra=_MULTI_WEIGHT * fvu(y_BE, y_hat_BE, whole.variance))
