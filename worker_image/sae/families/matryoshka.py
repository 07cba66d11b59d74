"""Matryoshka BatchTopK: nested groups of latents that reconstruct alone, too (arXiv 2503.17547).

Shapes: B tokens, D = d_in, E = width_out, F = d_sae, G groups, N active positions.
"""

from itertools import accumulate

import torch
from torch import Tensor

from worker_image.sae.code import Code
from worker_image.sae.families.batch_topk import BatchTopKSae
from worker_image.sae.metrics import squared_error
from worker_image.sae.model import FamilyLoss, Output
from worker_image.sae.sparse import Pattern, decode
from worker_image.sae.whole_batch import WholeBatch


class MatryoshkaSae(BatchTopKSae):
    """One BatchTopK over all latents; the loss is the mean over groups of the FVU with that group and all before it."""

    @property
    def group_ends(self) -> list[int]:
        """The latent that each group ends before; the last ends with all."""
        shares = list(accumulate(self.config.matryoshka_fractions))
        return [round(share * self.config.d_sae) for share in shares[:-1]] + [self.config.d_sae]

    def losses(self, x_BD: Tensor, y_BE: Tensor, out: Output, dead_S: Tensor, whole: WholeBatch) -> FamilyLoss:
        errors_G = torch.stack([squared_error(y_BE, y_hat_BE) for y_hat_BE in self.nested(x_BD, out.code)])
        return FamilyLoss(errors_G.mean() / whole.variance)

    def nested(self, x_BD: Tensor, code: Code) -> list[Tensor]:
        """The reconstruction with the first group, the first two, and so on: G times (B, E)."""
        first_BE, *rest = self._by_group(code).unbind(1)
        return list(accumulate([self.complete(x_BD, first_BE), *rest], torch.add))

    def _by_group(self, code: Code) -> Tensor:
        """What each group decodes to by itself: (B, G, E).

        Groups are ranges of latents, so a row's positions already stand group by group: with (token, group) as the
        row, one sparse product decodes all groups at the cost of one.
        """
        pattern = code.places.pattern
        assert pattern is not None, "the largest of a batch are few"
        ends_G = torch.tensor(self.group_ends, device=pattern.latent_N.device)
        n_groups = len(ends_G)
        row_N = pattern.row_N * n_groups + torch.bucketize(pattern.latent_N, ends_G, right=True)
        grouped = Pattern.of_rows(row_N, pattern.latent_N, pattern.rows * n_groups, pattern.n_latents)
        return decode(code.acts_P, grouped, self.W_dec_FE).unflatten(0, (pattern.rows, n_groups))
