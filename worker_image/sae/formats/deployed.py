"""An autoencoder as it is deployed: what it computes from raw activations, and nothing of how it was trained.

It is what every layout stores, and what stands between them when one is converted into another.

Shapes: B tokens, D = d_in, E = d_out, F = d_sae. Matrices are latent by latent, as in training.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from worker_image.sae.config import Family
from worker_image.sae.normalisation import Affine

Wiring = Literal["autoencoder", "transcoder", "crosscoder"]


@dataclass(frozen=True)
class DeployedSae:
    """Weights in float32 on the CPU, with every scale and threshold folded in.

    ``latents = activation(W_enc z + b_enc)`` and ``y = latents W_dec + b_dec (+ W_skip x)``, where ``z`` is
    ``x - b_dec`` in an autoencoder and ``x`` in a transcoder. A crosscoder is an autoencoder of several hookpoints
    side by side.
    """

    family: Family
    W_enc_FD: Tensor
    W_dec_FE: Tensor
    b_dec_E: Tensor
    b_enc_F: Tensor | None = None
    """Absent in the gated family, which has the next three instead."""
    b_gate_F: Tensor | None = None
    b_mag_F: Tensor | None = None
    r_mag_F: Tensor | None = None
    threshold: Tensor | None = None
    """What a pre-activation must exceed: (F,) for jumprelu, () for batch_topk and matryoshka."""
    W_skip_ED: Tensor | None = None
    wiring: Wiring = "autoencoder"
    k: int | None = None
    """Latents kept: per token for topk, on average while training for batch_topk and matryoshka."""
    multi_topk: bool = False
    """Whether it was trained to reconstruct from 4 k latents too."""
    group_sizes: tuple[int, ...] = ()
    """Latents that each nested group of a matryoshka adds."""

    def __post_init__(self) -> None:
        """Raises ValueError: the weights do not fit together."""
        d_sae, d_in, d_out = self.d_sae, self.W_enc_FD.shape[1], self.W_dec_FE.shape[1]
        gated = self.family == "gated"
        biases = ("b_gate_F", "b_mag_F", "r_mag_F") if gated else ("b_enc_F",)
        wanted = {"W_enc_FD": (d_sae, d_in), "W_dec_FE": (d_sae, d_out), "b_dec_E": (d_out,)}
        wanted |= dict.fromkeys(biases, (d_sae,))
        if self.family == "jumprelu":
            wanted["threshold"] = (d_sae,)
        if self.family in ("batch_topk", "matryoshka"):
            wanted["threshold"] = ()
        if self.W_skip_ED is not None:
            wanted["W_skip_ED"] = (d_out, d_in)
        found = {name: tuple(value.shape) for name, value in self.tensors()}
        if found != wanted:
            raise ValueError(f"the weights of a {self.family} autoencoder have shapes {wanted}, not {found}")
        if self.centred and d_in != d_out:
            raise ValueError(f"an autoencoder gives what it reads, {d_in} entries, not {d_out}")
        if self.family == "topk" and not 1 <= (self.k or 0) <= d_sae:
            raise ValueError(f"k is {self.k}, with {d_sae} latents")
        if self.group_sizes and sum(self.group_sizes) != d_sae:
            raise ValueError(f"groups of {self.group_sizes} do not make {d_sae} latents")

    @property
    def d_in(self) -> int:
        return self.W_enc_FD.shape[1]

    @property
    def d_sae(self) -> int:
        return self.W_enc_FD.shape[0]

    @property
    def d_out(self) -> int:
        return self.W_dec_FE.shape[1]

    @property
    def centred(self) -> bool:
        """Whether the encoder reads ``x - b_dec``."""
        return self.wiring != "transcoder"

    @property
    def fits(self) -> str:
        """Name of a layout that can express this, the likeliest to be of use to others."""
        if (self.centred and self.W_skip_ED is None) or self.family not in ("topk", "gated"):
            return "saelens"
        return "sparsify" if self.family == "topk" and self.d_in == self.d_out else "saeforge"

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of every weight that the family has."""
        for each in fields(self):
            if isinstance(value := getattr(self, each.name), Tensor):
                yield each.name, value

    def in_float64(self) -> Self:
        """The same in double precision, for folding without loss."""
        return replace(self, **{name: value.double() for name, value in self.tensors()})  # type: ignore[arg-type]

    def in_float32(self) -> Self:
        return replace(self, **{name: value.float() for name, value in self.tensors()})  # type: ignore[arg-type]

    def encode(self, x_BD: Tensor) -> Tensor:
        """(B, F): the latents of raw activations, densely."""
        z_BD = x_BD - self.b_dec_E if self.centred else x_BD
        if self.family == "gated":
            assert self.b_gate_F is not None
            assert self.b_mag_F is not None
            assert self.r_mag_F is not None
            shared_BF = z_BD @ self.W_enc_FD.T
            magnitude_BF = (shared_BF * self.r_mag_F.exp() + self.b_mag_F).relu()
            return torch.where(shared_BF + self.b_gate_F > 0, magnitude_BF, 0)
        pre_BF = functional.linear(z_BD, self.W_enc_FD, self.b_enc_F)
        if self.family == "topk":
            assert self.k is not None
            top_BK, idx_BK = pre_BF.topk(self.k, dim=1)
            return torch.zeros_like(pre_BF).scatter(1, idx_BK, top_BK.relu())
        if self.threshold is not None:
            return torch.where(pre_BF > self.threshold, pre_BF.relu(), 0)
        return pre_BF.relu()

    def decode(self, latents_BF: Tensor, x_BD: Tensor) -> Tensor:
        """(B, E): the reconstruction from latents and, through the skip connection, what they were made from."""
        y_BE = latents_BF @ self.W_dec_FE + self.b_dec_E
        return y_BE if self.W_skip_ED is None else y_BE + x_BD @ self.W_skip_ED.T

    def reading_raw(self, of_input: Affine, of_output: Affine) -> Self:
        """What computes from raw activations as this one, which reads and gives normalised ones.

        Latents stay as they are; rows of the decoder lose whatever length they had. ``of_output`` is ``of_input``
        unless this is a transcoder.
        """
        sae = self.in_float64()
        scale_D, mean_D = of_input.scale_W.double(), of_input.mean_W.double()
        scale_E, mean_E = of_output.scale_W.double(), of_output.mean_W.double()
        made = replace(
            sae,
            W_enc_FD=sae.W_enc_FD * scale_D,
            W_dec_FE=sae.W_dec_FE / scale_E,
            b_dec_E=sae.b_dec_E / scale_E + mean_E,
        )
        skipped_E = torch.zeros_like(mean_E)
        if sae.W_skip_ED is not None:
            W_skip_ED = sae.W_skip_ED * scale_D / scale_E[:, None]
            skipped_E = W_skip_ED @ mean_D
            made = replace(made, W_skip_ED=W_skip_ED, b_dec_E=made.b_dec_E - skipped_E)
        # An autoencoder must go on subtracting the same point though the skip has moved the decoder's bias.
        return made.with_encoder_shifted(-(made.W_enc_FD @ (skipped_E if self.centred else mean_D))).in_float32()

    def with_encoder_shifted(self, shift_F: Tensor) -> Self:
        """``shift_F`` added to every pre-activation, that is to whichever biases the family's encoder has."""
        if self.family == "gated":
            assert self.b_gate_F is not None
            assert self.b_mag_F is not None
            assert self.r_mag_F is not None
            return replace(self, b_gate_F=self.b_gate_F + shift_F, b_mag_F=self.b_mag_F + shift_F * self.r_mag_F.exp())
        assert self.b_enc_F is not None
        return replace(self, b_enc_F=self.b_enc_F + shift_F)

    def as_read_by_a_transcoder(self) -> Self:
        """The same function of ``x`` with an encoder that subtracts nothing; itself when it does not."""
        if not self.centred:
            return self
        sae = self.in_float64()
        return replace(sae.with_encoder_shifted(-(sae.W_enc_FD @ sae.b_dec_E)), wiring="transcoder").in_float32()

    def as_read_by_an_autoencoder(self, wiring: Wiring = "autoencoder") -> Self:
        """The same function of ``x`` with an encoder that subtracts ``b_dec`` first; itself when it does."""
        if self.centred:
            return replace(self, wiring=wiring)
        sae = self.in_float64()
        return replace(sae.with_encoder_shifted(sae.W_enc_FD @ sae.b_dec_E), wiring=wiring).in_float32()
