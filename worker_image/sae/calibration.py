"""The one threshold with which BatchTopK and Matryoshka are used after training, where there is no batch to rank in.

Shapes: B tokens of a batch, N tokens in all, D = d_in.
"""

import torch
from torch import Tensor

from worker_image.sae.evaluation import parts_of
from worker_image.sae.families.batch_topk import BatchTopKSae
from worker_image.sae.model import Sae


@torch.no_grad()
def calibrate(sae: Sae, x_ND: Tensor, batch_tokens: int, at_once: int | None = None) -> None:
    """Set the threshold, where there is one, to the mean over batches of the smallest activation that training's
    selection keeps and that is above 0 (arXiv 2412.06410).

    It is measured on activations held out, with the weights as they are at the end: an average taken while training
    lags behind weights that still grow, and lets through too many. ``batch_tokens``: as in training; what is left over
    is left out, unless there is nothing else. ``at_once``: most tokens of a batch that are in memory together.
    """
    if not isinstance(sae, BatchTopKSae):
        return
    batches = x_ND.split(batch_tokens)
    if len(batches) > 1 and len(batches[-1]) < batch_tokens:
        batches = batches[:-1]
    least = []
    for x_BD in batches:
        x_BD = x_BD.to(sae.b_dec_E)
        parts = parts_of(sae, x_BD, x_BD, at_once)
        acts_P = torch.cat([sae(part.x_BD, chosen=part.chosen).code.acts_P for part in parts])
        # A batch without any activation above 0 lets nothing pass.
        none_1 = acts_P.new_full((1,), torch.inf)
        least.append(torch.cat((torch.where(acts_P > 0, acts_P, torch.inf), none_1)).min())
    sae.threshold.copy_(torch.stack(least).double().mean())
