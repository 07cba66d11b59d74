"""Gated: which latents are active is decided apart from how much (arXiv 2404.16014).

Shapes: B tokens, D = d_in, E = width_out, F = d_sae, P places of active latents.
"""

import torch
from torch import Tensor, nn

from worker_image.sae.code import Code, encode_above
from worker_image.sae.model import FamilyLoss, Output, Sae, mean_squared_error
from worker_image.sae.whole_batch import WholeBatch


class GatedSae(Sae):
    """pi = W_enc (x - b_dec) + b_gate; acts = 1[pi > 0] ReLU(exp(r_mag) * (W_enc (x - b_dec)) + b_mag).

    Loss: squared error + lambda * sum_f ReLU(pi_f) + squared error of decoding ReLU(pi) with a frozen decoder, the last
    two of which teach the gate. In units in which activations are 1 long. A transcoder's decoder rows are not held at
    length 1: there the penalty weighs latents by them, frozen. ``b_enc_F`` is the gate's bias.
    """

    def add_parameters(self, device: torch.device | str) -> None:
        self.r_mag_F = nn.Parameter(torch.zeros(self.config.d_sae, device=device))
        self.b_mag_F = nn.Parameter(torch.zeros(self.config.d_sae, device=device))

    @torch.no_grad()
    def centre(self, x_BD: Tensor, y_BE: Tensor) -> None:
        super().centre(x_BD, y_BE)
        # What a transcoder's gate takes off its input, its magnitudes take off too.
        self.b_mag_F.copy_(self.b_enc_F)

    @torch.no_grad()
    def restart(self, latents_S: Tensor, x_BD: Tensor) -> None:
        super().restart(latents_S, x_BD)
        self.r_mag_F[latents_S] = 0
        self.b_mag_F[latents_S] = self.b_enc_F[latents_S]

    def encode(self, x_BD: Tensor, *, deployed: bool = False) -> Code:
        floor_F = torch.zeros_like(self.b_enc_F)
        gate_P, places = encode_above(
            x_BD, self.encoder_FD, self.b_enc_F, floor_F, self.lookup(x_BD, deployed=deployed)
        )
        projected_P = gate_P - places.of_latents(self.b_enc_F)
        magnitude_P = projected_P * places.of_latents(self.r_mag_F.exp()) + places.of_latents(self.b_mag_F)
        return Code(torch.relu(magnitude_P) * (gate_P > 0), gate_P, places)

    def losses(self, x_BD: Tensor, y_BE: Tensor, out: Output, dead_S: Tensor, whole: WholeBatch) -> FamilyLoss:
        gate_P = torch.relu(out.code.pre_P)
        frozen_BE = out.code.decode(self.W_dec_FE.detach(), gate_P) + self.b_dec_E.detach()
        if self.config.skip_connection:
            frozen_BE = frozen_BE + self.skipped(x_BD).detach()
        per_length = 1 / self.output_norm(whole)
        penalised_P = gate_P
        if not self.holds_unit_norm:
            # Frozen as in what teaches the gate: the penalty would shorten rows, and magnitudes would make up for it.
            penalised_P = gate_P * out.code.places.of_latents(self.decoder_norm_F.detach())
        return FamilyLoss(
            reconstruction=mean_squared_error(y_BE, out.y_hat_BE, whole.tokens) * per_length**2,
            sparsity=penalised_P.sum() / whole.tokens * per_length,
            extra=mean_squared_error(y_BE, frozen_BE, whole.tokens) * per_length**2,
        )
