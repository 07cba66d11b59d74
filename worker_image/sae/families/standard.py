"""The standard autoencoder: ReLU and an L1 penalty, in two recipes.

Shapes: B tokens, D = d_in, E = width_out, F = d_sae, P places of active latents.
"""

import math

import torch
from torch import Tensor

from worker_image.sae.code import Code, encode_above
from worker_image.sae.config import SaeConfig
from worker_image.sae.model import FamilyLoss, Output, Sae, mean_squared_error
from worker_image.sae.whole_batch import WholeBatch


class StandardSae(Sae):
    """acts = ReLU(W_enc (x - b_dec) + b_enc).

    *april_2024* (Anthropic's circuits update): squared error + lambda * sum_f acts_f ||W_dec_f||, decoder rows free and
    0.1 long at the start, in units in which activations are sqrt(D) long. *unit_norm*: squared error + lambda * sum_f
    acts_f with decoder rows held at length 1, in units in which activations are 1 long. A transcoder's rows are not
    held, so there the penalty weighs latents by them in both. Both sum over latents and average over tokens.
    """

    def __init__(self, config: SaeConfig, device: torch.device | str = "cpu") -> None:
        self.unit_norm = config.l1_recipe == "unit_norm"
        self.initial_norm = 1.0 if self.unit_norm else 0.1
        super().__init__(config, device)

    def encode(self, x_BD: Tensor, *, deployed: bool = False) -> Code:
        floor_F = torch.zeros_like(self.b_enc_F)
        pre_P, places = encode_above(x_BD, self.encoder_FD, self.b_enc_F, floor_F, self.lookup(x_BD, deployed=deployed))
        return Code(torch.relu(pre_P), pre_P, places)

    def losses(self, x_BD: Tensor, y_BE: Tensor, out: Output, dead_S: Tensor, whole: WholeBatch) -> FamilyLoss:
        code = out.code
        size = 1.0 if self.unit_norm else math.sqrt(self.config.width_out)
        per_length = size / self.output_norm(whole)
        penalised_P = code.acts_P
        if not self.holds_unit_norm:
            penalised_P = penalised_P * code.places.of_latents(self.decoder_norm_F)
        return FamilyLoss(
            reconstruction=mean_squared_error(y_BE, out.y_hat_BE, whole.tokens) * per_length**2,
            sparsity=penalised_P.sum() / whole.tokens * per_length,
        )
