"""What every family of sparse autoencoder shares: weights, wiring, decoding.

Wiring and family are independent. An *autoencoder* reconstructs what it reads; a *transcoder* predicts another place's
activations from it; a *crosscoder* reads and reconstructs several places, side by side in one wide vector. A skip
connection adds a linear path beside the latents.

Shapes: B tokens, D = d_in, E = width_out (= D unless it is a transcoder), F = d_sae, L layers of a crosscoder,
P places of active latents (see ``code``).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker_image.sae.code import Code, encode_chosen
from worker_image.sae.config import SaeConfig
from worker_image.sae.lookup import Lookup
from worker_image.sae.metrics import fvu, squared_error
from worker_image.sae.sparse import Chosen, centre
from worker_image.sae.whole_batch import WholeBatch


@dataclass(frozen=True)
class Output:
    """What the autoencoder makes of a batch."""

    y_hat_BE: Tensor
    """Reconstruction, or a transcoder's prediction."""
    code: Code


@dataclass(frozen=True)
class FamilyLoss:
    """The two sides that a family weighs against each other."""

    reconstruction: Tensor
    sparsity: Tensor | None = None
    """Before its coefficient; None for a family whose sparsity is not a loss."""
    extra: Tensor | None = None
    """A term with a weight of its own, e.g. Gated's auxiliary reconstruction."""


class Sae(nn.Module, ABC):
    """y_hat = W_dec^T acts + b_dec (+ skip). A family says how ``acts`` come about and what is lost.

    Both weight matrices are stored latent by latent, (F, D) and (F, E): training reads and writes whole latents.
    """

    initial_norm: float = 1.0
    """Length of decoder rows at the start."""
    unit_norm = True
    """Whether decoder rows are held at length 1."""
    aims_at_l0 = False
    """Whether the loss depends on how many latents are active in the whole batch."""

    def __init__(self, config: SaeConfig, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.config = config
        # Drawn on the CPU, so that one seed gives the same weights on every device.
        generator = torch.Generator().manual_seed(config.seed)
        directions_FD = torch.randn(config.d_sae, config.d_in, generator=generator).to(device)
        directions_FD *= self.initial_norm / directions_FD.norm(dim=1, keepdim=True)
        # A transcoder's prediction starts at its mean (arXiv 2501.18823). Its rows, 0 at first, are not normalised.
        zeros_FE = torch.zeros(config.d_sae, config.width_out, device=device)
        self.W_dec_FE = nn.Parameter(zeros_FE if config.is_transcoder else directions_FD)
        if not config.tied_weights:
            self.W_enc_FD = nn.Parameter(directions_FD.clone())
        self.b_enc_F = nn.Parameter(torch.zeros(config.d_sae, device=device))
        self.b_dec_E = nn.Parameter(torch.zeros(config.width_out, device=device))
        if config.skip_connection and config.is_transcoder:
            self.W_skip_ED = nn.Parameter(torch.zeros(config.width_out, config.d_in, device=device))
        elif config.skip_connection:
            self.skip_gate_D = nn.Parameter(torch.zeros(config.d_in, device=device))
        self.register_buffer("input_norm", torch.ones((), device=device))
        self.add_parameters(device)

    input_norm: Tensor
    """Root mean square of the length of what is encoded, measured by ``centre``: the unit in which recipes state their
    coefficients, thresholds and widths, so that they hold for activations of any size."""

    def output_norm(self, whole: WholeBatch) -> Tensor:
        """The same unit for what is reconstructed. Targets of a transcoder are of a size of their own."""
        return whole.norm if self.config.is_transcoder else self.input_norm

    def add_parameters(self, device: torch.device | str) -> None:
        """Create what the family has besides."""

    def rate_scale(self, parameter: str) -> float:
        """By how much the learning rate of the parameter of that name is multiplied."""
        return 1.0

    @abstractmethod
    def encode(self, x_BD: Tensor, *, deployed: bool = False) -> Code:
        """The code of ``x_BD``, which is centred as ``centred`` does. ``deployed``: as it is used after training, a
        token's code independent of the others of its batch."""

    def choose(self, x_BD: Tensor) -> Chosen | None:
        """The places of a batch's latents, where a token's depend on the others of its batch; None where they do not.
        ``x_BD`` is centred."""
        return None

    def losses(self, x_BD: Tensor, y_BE: Tensor, out: Output, dead_S: Tensor, whole: WholeBatch) -> FamilyLoss:
        """What ``out`` contributes to the loss of the ``whole`` batch, of which ``x_BD`` and ``y_BE`` are all or a
        part. ``dead_S`` are the indices of the dead latents, possibly none."""
        return FamilyLoss(fvu(y_BE, out.y_hat_BE, whole.variance))

    def forward(self, x_BD: Tensor, *, deployed: bool = False, chosen: Chosen | None = None) -> Output:
        """``chosen``: places of the latents that ``choose`` found for a batch of which this is a part."""
        centred_BD = self.centred(x_BD)
        if chosen is None:
            code = self.encode(centred_BD, deployed=deployed)
        else:
            code = encode_chosen(centred_BD, self.encoder_FD, self.b_enc_F, chosen)
        return Output(self.complete(x_BD, code.decode(self.W_dec_FE)), code)

    @property
    def encoder_FD(self) -> Tensor:
        """The encoder's weights."""
        return self.W_dec_FE if self.config.tied_weights else self.W_enc_FD

    def lookup(self, x_BD: Tensor, *, deployed: bool = False) -> Lookup:
        """The encoder's product in the type in which active latents are looked for, which only training may round.
        ``x_BD`` is centred."""
        if deployed or self.config.encoder_dtype == "float32":
            return Lookup(x_BD, self.encoder_FD, self.b_enc_F)
        dtype = getattr(torch, self.config.encoder_dtype)
        return Lookup.of(x_BD, self.encoder_FD, self.b_enc_F, dtype)

    @property
    def holds_unit_norm(self) -> bool:
        """Whether ``normalise_decoder`` is to be called after each step."""
        return self.unit_norm and not self.config.is_transcoder

    def centred(self, x_BD: Tensor) -> Tensor:
        """What the encoder reads: the decoder's bias is taken off, unless what it belongs to is not what is read."""
        return x_BD if self.config.is_transcoder else centre(x_BD, self.b_dec_E)

    def complete(self, x_BD: Tensor, decoded_BE: Tensor) -> Tensor:
        """Add to what the latents decode to the bias and, where there is one, the skip path: (B, E)."""
        y_hat_BE = decoded_BE + self.b_dec_E
        if self.config.skip_connection:
            y_hat_BE = y_hat_BE + self.skipped(x_BD)
        return y_hat_BE

    def skipped(self, x_BD: Tensor) -> Tensor:
        """What the skip path passes: (B, E).

        An autoencoder's identity would make reconstruction free: there each dimension, centred, passes at most
        ``skip_share``.
        """
        if self.config.is_transcoder:
            return functional.linear(x_BD, self.W_skip_ED)
        return self.config.skip_share * torch.tanh(self.skip_gate_D) * (x_BD - self.b_dec_E)

    @property
    def decoder_norm_F(self) -> Tensor:
        """Length of each latent's decoder row; for a crosscoder the sum of its lengths in all layers."""
        blocks_FLD = self.W_dec_FE.unflatten(1, (self.config.layers, -1))
        return blocks_FLD.norm(dim=2).sum(1)

    @torch.no_grad()
    def centre(self, x_BD: Tensor, y_BE: Tensor) -> None:
        """Start the biases where a sample of activations lies.

        An autoencoder's ``b_dec`` starts at the geometric median. A transcoder starts by predicting the mean, its
        encoder centred on its input by ``b_enc`` (arXiv 2501.18823).
        """
        if self.config.is_transcoder:
            self.b_dec_E.copy_(y_BE.to(self.b_dec_E).mean(0))
            self.b_enc_F.copy_(-(self.encoder_FD @ x_BD.to(self.b_enc_F).mean(0)))
        else:
            self.b_dec_E.copy_(geometric_median(x_BD.to(self.b_dec_E)))
        centred_BD = x_BD.to(self.b_enc_F)
        centred_BD = centred_BD - (centred_BD.mean(0) if self.config.is_transcoder else self.b_dec_E)
        norm = centred_BD.square().sum(1).mean().sqrt()
        self.input_norm.copy_(torch.where(norm > 0, norm, 1.0))

    @torch.no_grad()
    def restart(self, latents_S: Tensor, x_BD: Tensor) -> None:
        """Set all but the weights of these latents as at the start, for activations ``x_BD``, which are not centred."""
        if self.config.is_transcoder:
            # Nothing is taken off its input: a bias of 0 would have them fire at all tokens or none.
            self.b_enc_F[latents_S] = -(self.encoder_FD[latents_S] @ x_BD.mean(0))
        else:
            self.b_enc_F[latents_S] = 0

    @torch.no_grad()
    def bar(self, x_BD: Tensor, tokens_S: Tensor) -> Tensor:
        """What the pre-activations of latents that start anew must exceed at these tokens of a batch: (S,). ``x_BD`` is
        not centred."""
        return x_BD.new_zeros(len(tokens_S))

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Scale every decoder row to length 1."""
        self.W_dec_FE.div_(self.W_dec_FE.norm(dim=1, keepdim=True).clamp_min(torch.finfo(self.W_dec_FE.dtype).eps))

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Take out of the decoder's gradient the part along each row, which normalising would undo after the step
        yet Adam would carry in its moments."""
        grad_FE = self.W_dec_FE.grad
        if grad_FE is not None:
            along_F1 = (grad_FE * self.W_dec_FE).sum(dim=1, keepdim=True)
            grad_FE.addcmul_(along_F1, self.W_dec_FE, value=-1)


def mean_squared_error(y_BE: Tensor, y_hat_BE: Tensor, tokens: int) -> Tensor:
    """Squared error summed over dimensions, averaged over a batch of ``tokens``: what penalties per token are weighed
    against."""
    return squared_error(y_BE, y_hat_BE) / tokens


def geometric_median(x_BD: Tensor, iterations: int = 50, tolerance: float = 1e-5) -> Tensor:
    """The point with the least summed distance to the rows, by Weiszfeld's iteration from their mean: (D,).

    Stops when a step is shorter than ``tolerance`` times the mean distance.
    """
    median_D = x_BD.mean(0)
    for _ in range(iterations):
        distance_B = (x_BD - median_D).norm(dim=1).clamp_min(1e-8)
        weight_B = 1 / distance_B
        moved_D = (weight_B @ x_BD) / weight_B.sum()
        if (moved_D - median_D).norm() <= tolerance * distance_B.mean():
            return moved_D
        median_D = moved_D
    return median_D
