"""From an autoencoder in training to what it is deployed as, and back to one that our code evaluates.

Shapes: D = d_in, E = d_out, F = d_sae.
"""

from dataclasses import replace

import torch
from torch import Tensor

from worker_image.sae.config import SaeConfig
from worker_image.sae.families import build_sae
from worker_image.sae.families.batch_topk import BatchTopKSae
from worker_image.sae.families.gated import GatedSae
from worker_image.sae.families.jumprelu import JumpReluSae
from worker_image.sae.families.matryoshka import MatryoshkaSae
from worker_image.sae.formats.deployed import DeployedSae
from worker_image.sae.formats.refusals import CannotExpress
from worker_image.sae.model import Sae
from worker_image.sae.normalisation import Affine


@torch.no_grad()
def deployed(sae: Sae, of_input: Affine | None = None, of_output: Affine | None = None) -> DeployedSae:
    """What ``sae`` computes, as it is used after training, from raw activations.

    ``of_input`` normalised what it was trained on; ``of_output`` what it predicted, if that was something else.

    Raises:
        CannotExpress: it chooses among a batch, and its threshold has not been calibrated.
    """
    config = sae.config
    counted = config.family in ("topk", "batch_topk", "matryoshka")
    made = DeployedSae(
        family=config.family,
        wiring="transcoder" if config.is_transcoder else "crosscoder" if config.layers > 1 else "autoencoder",
        W_enc_FD=_plain(sae.encoder_FD),
        W_dec_FE=_plain(sae.W_dec_FE),
        b_dec_E=_plain(sae.b_dec_E),
        threshold=_threshold(sae),
        k=config.k if counted else None,
        multi_topk=config.multi_topk,
        group_sizes=_group_sizes(sae),
        **_encoder_biases(sae),
    )
    if config.skip_connection:
        made = _with_skip(made, sae)
    if of_input is None:
        return made
    return made.reading_raw(of_input, of_input if of_output is None else of_output)


@torch.no_grad()
def rebuilt(sae: DeployedSae, device: torch.device | str = "cpu") -> Sae:
    """``sae`` as our code encodes and measures it, for use and not for training on.

    One with a skip connection becomes a transcoder to the place that it reads: an autoencoder's own is learned in
    another form, which cannot say everything that a matrix can.
    """
    if sae.W_skip_ED is not None:
        sae = sae.as_read_by_a_transcoder()
    config = SaeConfig(
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        k=sae.k or 1,
        family=sae.family,
        d_out=None if sae.centred else sae.d_out,
        skip_connection=sae.W_skip_ED is not None,
        multi_topk=sae.multi_topk,
        matryoshka_fractions=tuple(size / sae.d_sae for size in sae.group_sizes) or (1.0,),
        jumprelu_recipe="quadratic",
    )
    made = build_sae(config)
    state = {"W_enc_FD": sae.W_enc_FD, "W_dec_FE": sae.W_dec_FE, "b_dec_E": sae.b_dec_E}
    if sae.W_skip_ED is not None:
        state["W_skip_ED"] = sae.W_skip_ED
    if sae.family == "gated":
        state |= {"b_enc_F": _there(sae.b_gate_F), "b_mag_F": _there(sae.b_mag_F), "r_mag_F": _there(sae.r_mag_F)}
    else:
        state["b_enc_F"] = _there(sae.b_enc_F)
    if sae.family == "jumprelu":
        # Of this recipe the unit is the activations' own while input_norm is 1, as it is at first.
        state["log_threshold_F"] = _there(sae.threshold).clamp_min(0).log()
    elif sae.threshold is not None:
        state["threshold"] = sae.threshold
    made.load_state_dict(made.state_dict() | state)
    return made.to(device)


def _encoder_biases(sae: Sae) -> dict[str, Tensor]:
    if isinstance(sae, GatedSae):
        return {"b_gate_F": _plain(sae.b_enc_F), "b_mag_F": _plain(sae.b_mag_F), "r_mag_F": _plain(sae.r_mag_F)}
    return {"b_enc_F": _plain(sae.b_enc_F)}


def _threshold(sae: Sae) -> Tensor | None:
    if isinstance(sae, JumpReluSae):
        return _plain(sae.threshold_F)
    if isinstance(sae, BatchTopKSae):
        if sae.threshold.isnan():
            raise CannotExpress(
                f"a {sae.config.family} autoencoder is deployed with a threshold, which has not been calibrated",
                "calibrate it on held-out activations first",
            )
        return _plain(sae.threshold)
    return None


def _group_sizes(sae: Sae) -> tuple[int, ...]:
    if not isinstance(sae, MatryoshkaSae):
        return ()
    ends = sae.group_ends
    return tuple(end - begin for begin, end in zip([0, *ends], ends, strict=False))


def _with_skip(made: DeployedSae, sae: Sae) -> DeployedSae:
    if sae.config.is_transcoder:
        return replace(made, W_skip_ED=_plain(sae.W_skip_ED))
    # In training it passes a share of x - b_dec; here it reads x, and what is too much goes into the bias, which the
    # encoder subtracts as well.
    share_D = sae.config.skip_share * torch.tanh(_plain(sae.skip_gate_D))
    excess_D = share_D * made.b_dec_E
    skipping = replace(made, W_skip_ED=torch.diag(share_D), b_dec_E=made.b_dec_E - excess_D)
    return skipping.with_encoder_shifted(-(made.W_enc_FD @ excess_D))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu().clone()


def _there(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
