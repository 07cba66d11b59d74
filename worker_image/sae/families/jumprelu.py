"""JumpReLU: a learned threshold for each latent, trained through straight-through estimators (arXiv 2407.14435).

Shapes: B tokens, D = d_in, E = width_out, F = d_sae, P places of active latents, S dead latents.
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from worker_image.sae.code import Code, encode_above
from worker_image.sae.config import DEFAULT_TARGET_L0, SaeConfig
from worker_image.sae.metrics import fvu
from worker_image.sae.model import FamilyLoss, Output, Sae, mean_squared_error
from worker_image.sae.sparse import affine
from worker_image.sae.whole_batch import WholeBatch

_PRE_ACTIVATION_WEIGHT = 3e-6
_TANH_STEEPNESS = 4.0

_THRESHOLD_RATE_SCALE = 50.0
"""How much faster than weights the quadratic recipe learns thresholds: they reach the target L0 within 2000 steps."""


class JumpReluSae(Sae):
    """acts = pre * H(pre - theta), theta = exp(log_threshold) > 0.

    *quadratic* (arXiv 2407.14435): FVU + lambda (L0 / target - 1)^2, decoder rows of length 1, in units in which
    activations are 1 long. *tanh* (Anthropic's circuits update of January 2025): squared error + lambda * sum_f
    tanh(4 acts_f ||W_dec_f||) + a small pull of dead latents' pre-activations towards their thresholds, in units in
    which activations are sqrt(D) long. Thresholds stay float32 whatever the weights are.
    """

    def __init__(self, config: SaeConfig, device: torch.device | str = "cpu") -> None:
        self.unit_norm = config.is_quadratic
        self.initial_norm = 1.0 if config.is_quadratic else 0.1
        self.aims_at_l0 = config.is_quadratic
        super().__init__(config, device)

    def add_parameters(self, device: torch.device | str) -> None:
        self.log_threshold_F = nn.Parameter(
            torch.full((self.config.d_sae,), self._first_log_threshold, device=device, dtype=torch.float32)
        )

    @property
    def _first_log_threshold(self) -> float:
        return math.log(self.config.jumprelu_threshold or (1e-3 if self.config.is_quadratic else 0.1))

    @torch.no_grad()
    def restart(self, latents_S: Tensor, x_BD: Tensor) -> None:
        super().restart(latents_S, x_BD)
        self.log_threshold_F[latents_S] = self._first_log_threshold

    @torch.no_grad()
    def bar(self, x_BD: Tensor, tokens_S: Tensor) -> Tensor:
        return (math.exp(self._first_log_threshold) / self._per_length).expand(len(tokens_S))

    def rate_scale(self, parameter: str) -> float:
        # Adam moves log theta by the rate at most, whatever the gradient: at 7e-5 by a factor of 1.3 in 4000 steps, and
        # L0 stays far above its target. Those who learn theta itself from 1e-3 move it by 7 % in their first step.
        faster = parameter == "log_threshold_F" and self.config.is_quadratic
        return _THRESHOLD_RATE_SCALE if faster else 1.0

    @property
    def threshold_F(self) -> Tensor:
        """theta, in the units of the activations."""
        return self.log_threshold_F.exp() / self._per_length

    @property
    def bandwidth(self) -> Tensor:
        """Width over which the threshold's gradient is estimated, in the units of the activations."""
        width = self.config.jumprelu_bandwidth or (1e-3 if self.config.is_quadratic else 2.0)
        return width / self._per_length

    @property
    def _per_length(self) -> Tensor:
        """Turns the units of what is encoded into the recipe's."""
        return (1.0 if self.config.is_quadratic else math.sqrt(self.config.d_in)) / self.input_norm

    def encode(self, x_BD: Tensor, *, deployed: bool = False) -> Code:
        # Below its threshold a latent still teaches it, half a width far.
        floor_F = self.threshold_F.detach()
        if not deployed:
            floor_F = floor_F - self.bandwidth / 2
        pre_P, places = encode_above(x_BD, self.encoder_FD, self.b_enc_F, floor_F, self.lookup(x_BD, deployed=deployed))
        theta_P = places.of_latents(self.threshold_F)
        return Code(_JumpRelu.apply(pre_P, theta_P, self.bandwidth), pre_P, places)

    def losses(self, x_BD: Tensor, y_BE: Tensor, out: Output, dead_S: Tensor, whole: WholeBatch) -> FamilyLoss:
        code = out.code
        if self.config.is_quadratic:
            theta_P = code.places.of_latents(self.threshold_F)
            active = _Step.apply(code.pre_P, theta_P, self.bandwidth).sum()
            missed = self._squared_miss(active, len(x_BD) / whole.tokens, whole)
            return FamilyLoss(fvu(y_BE, out.y_hat_BE, whole.variance), sparsity=missed)
        per_length = math.sqrt(self.config.width_out) / self.output_norm(whole)
        norms_P = code.places.of_latents(self.decoder_norm_F)
        saturating_P = torch.tanh(_TANH_STEEPNESS * code.acts_P * norms_P * per_length)
        return FamilyLoss(
            reconstruction=mean_squared_error(y_BE, out.y_hat_BE, whole.tokens) * per_length**2,
            sparsity=saturating_P.sum() / whole.tokens,
            extra=self._pull_of_dead(x_BD, dead_S) * per_length / whole.tokens if len(dead_S) else None,
        )

    def _squared_miss(self, active: Tensor, share: float, whole: WholeBatch) -> Tensor:
        """(L0 / target - 1)^2 of the whole batch: what ``active`` latents of its ``share`` contribute."""
        target = self.config.target_l0 or DEFAULT_TARGET_L0
        miss = active / whole.tokens / target - share
        if whole.l0 is None:
            return miss.square()
        # The parts' misses add up to the whole's, and so do these; each has the gradient of the square of that sum.
        return (whole.l0 / target - 1) * (2 * miss - miss.detach())

    def _pull_of_dead(self, x_BD: Tensor, dead_S: Tensor) -> Tensor:
        """How far dead latents stay below their thresholds, weighed by decoder norm, at all tokens together."""
        pre_BS = affine(self.centred(x_BD), self.encoder_FD[dead_S], self.b_enc_F[dead_S])
        missing_BS = torch.relu(self.threshold_F[dead_S] - pre_BS) * self.decoder_norm_F[dead_S]
        return _PRE_ACTIVATION_WEIGHT * missing_BS.sum()


def _near(pre_P: Tensor, theta_P: Tensor, width: Tensor) -> Tensor:
    """Whether a pre-activation is within half a width of its threshold: the rectangle kernel's support."""
    return (pre_P - theta_P).abs() < width / 2


class _JumpRelu(torch.autograd.Function):
    """pre * H(pre - theta); d/dtheta = -(theta / width) rect((pre - theta) / width)."""

    @staticmethod
    def forward(ctx, pre_P, theta_P, width):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(pre_P, theta_P, width)
        return pre_P * (pre_P > theta_P)

    @staticmethod
    @once_differentiable
    def backward(ctx, dacts_P):  # type: ignore[no-untyped-def]
        pre_P, theta_P, width = ctx.saved_tensors
        dpre_P = dacts_P * (pre_P > theta_P)
        dtheta_P = -(theta_P / width) * _near(pre_P, theta_P, width) * dacts_P
        return dpre_P, dtheta_P.sum_to_size(theta_P.shape), None


class _Step(torch.autograd.Function):
    """H(pre - theta); d/dtheta = -(1 / width) rect((pre - theta) / width), nothing flows to ``pre``."""

    @staticmethod
    def forward(ctx, pre_P, theta_P, width):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(pre_P, theta_P, width)
        return (pre_P > theta_P).to(pre_P.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dstep_P):  # type: ignore[no-untyped-def]
        pre_P, theta_P, width = ctx.saved_tensors
        dtheta_P = -(1 / width) * _near(pre_P, theta_P, width) * dstep_P
        return None, dtheta_P.sum_to_size(theta_P.shape), None
