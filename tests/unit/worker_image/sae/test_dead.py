"""Reviving dead latents by resampling, in every wiring."""

from itertools import product

import pytest
import torch
from torch import Tensor

from tests.unit.worker_image.sae.test_losses import FAMILIES, small_sae
from worker_image.sae.config import SaeConfig
from worker_image.sae.dead import resample
from worker_image.sae.families import build_sae
from worker_image.sae.model import Sae
from worker_image.sae.trainer import Trainer

DEAD = torch.tensor([2, 7, 11])
N = 200


def far_from_zero(width: int, seed: int) -> Tensor:
    """Tokens whose mean is much longer than they are apart, as activations of language models are."""
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(N, width, generator=drawn) + 5 * torch.randn(width, generator=drawn)


def resampled(**changes: object) -> tuple[Sae, Tensor]:
    """An autoencoder after resampling, and what it reads."""
    config = SaeConfig(**({"d_in": 6, "d_sae": 20, "k": 3} | changes))  # type: ignore[arg-type]
    sae, x = build_sae(config), far_from_zero(6, seed=1)
    y = far_from_zero(config.d_out, seed=2) if config.d_out else x
    sae.centre(x, y)
    with torch.no_grad():
        residual = y - sae(x).y_hat_BE
    resample(sae, {}, x, residual, DEAD, seed=4)
    return sae, x


WIRINGS: list[dict[str, object]] = [{}, {"d_out": 4}, {"d_out": 4, "skip_connection": True}, {"layers": 2}]


def can_be(family: str, wiring: dict[str, object]) -> bool:
    """A transcoder's weights cannot be tied."""
    return family != "standard tied" or "d_out" not in wiring


@pytest.mark.parametrize(("family", "wiring"), [case for case in product(FAMILIES, WIRINGS) if can_be(*case)], ids=str)
def test_a_revived_latent_fires_for_some_tokens_and_not_for_all(family: str, wiring: dict[str, object]) -> None:
    sae, x = resampled(**FAMILIES[family], **wiring)
    read = x if sae.config.is_transcoder else x - sae.b_dec_E
    shares = ((read @ sae.encoder_FD[DEAD].T + sae.b_enc_F[DEAD]) > 0).float().mean(0)
    assert shares.min() > 0.2
    assert shares.max() < 0.8


@pytest.mark.parametrize(("family", "wiring"), [case for case in product(FAMILIES, WIRINGS) if can_be(*case)], ids=str)
def test_a_revived_latent_is_active_at_the_token_it_was_pointed_at(family: str, wiring: dict[str, object]) -> None:
    config = SaeConfig(**({"d_in": 6, "d_sae": 20, "k": 3} | FAMILIES[family] | wiring))  # type: ignore[arg-type]
    sae, x = build_sae(config), far_from_zero(6, seed=1)
    sae.centre(x, x[:, : config.width_out])
    residual = torch.zeros(N, config.width_out)
    residual[17] = sae.b_dec_E - x[17, : config.width_out]  # away from the token: all that is left over of it
    resample(sae, {}, x, residual, DEAD[:1], seed=4)
    assert sae(x).code.dense()[17, DEAD[0]] > 0


def test_no_threshold_is_too_high_for_a_revived_latent() -> None:
    sae, x = resampled(family="jumprelu", jumprelu_threshold=0.7)
    assert sae(x).code.dense()[:, DEAD].gt(0).any(0).all()


def test_a_revived_latent_of_a_transcoder_looks_for_what_tells_its_token_from_the_mean() -> None:
    sae, x = resampled(d_out=4)
    mean = x.mean(0)
    rows = torch.nn.functional.normalize(sae.W_enc_FD[DEAD], dim=1)
    likeness = rows @ torch.nn.functional.normalize(x - mean, dim=1).T
    torch.testing.assert_close(likeness.max(dim=1).values, torch.ones(3))
    torch.testing.assert_close(sae.b_enc_F[DEAD], -(sae.W_enc_FD[DEAD] @ mean))


def test_a_revived_latent_of_a_crosscoder_decodes_to_the_residual_of_all_places() -> None:
    sae = small_sae(layers=2).float()
    residual = far_from_zero(6, seed=3)
    resample(sae, {}, far_from_zero(6, seed=1), residual, DEAD, seed=4)
    likeness = sae.W_dec_FE[DEAD] @ torch.nn.functional.normalize(residual, dim=1).T
    torch.testing.assert_close(likeness.max(dim=1).values, torch.ones(3))
    assert sae.b_enc_F[DEAD].eq(0).all()


@pytest.mark.parametrize("family", ["gated", "jumprelu quadratic", "jumprelu tanh", "standard april"])
def test_every_vector_of_a_revived_latent_starts_anew_with_its_moments_and_no_other_changes(family: str) -> None:
    config = SaeConfig(d_in=6, d_sae=20, **FAMILIES[family])  # type: ignore[arg-type]
    fresh, sae = build_sae(config), build_sae(config)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name.endswith("_F"):
                parameter -= 3.0
    worn = {name: parameter.detach().clone() for name, parameter in sae.named_parameters()}
    moments = {name: {"exp_avg": torch.ones_like(parameter)} for name, parameter in sae.named_parameters()}
    x = far_from_zero(6, seed=1)
    resample(sae, moments, x, x, DEAD, seed=4)
    others = torch.tensor([latent for latent in range(20) if latent not in DEAD.tolist()])
    for name, parameter in sae.named_parameters():
        if name == "b_dec_E":
            assert moments[name]["exp_avg"].eq(1).all()
            continue
        if name.endswith("_F"):
            assert torch.equal(parameter[DEAD], dict(fresh.named_parameters())[name][DEAD]), name
        assert torch.equal(parameter[others], worn[name][others]), name
        assert moments[name]["exp_avg"][DEAD].eq(0).all(), name
        assert moments[name]["exp_avg"][others].eq(1).all(), name


@pytest.mark.parametrize("family", ["gated", "jumprelu quadratic", "jumprelu tanh", "topk"])
@pytest.mark.parametrize(
    ("optimizer", "kept"),
    [
        ("adam", {"exp_avg", "exp_avg_sq"}),
        ("adamw", {"exp_avg", "exp_avg_sq"}),
        ("sgd", {"momentum_buffer"}),
        ("signum", {"momentum_buffer"}),
        ("muon", {"momentum_buffer", "exp_avg", "exp_avg_sq"}),
    ],
)
def test_no_optimiser_remembers_anything_of_a_revived_latent(family: str, optimizer: str, kept: set[str]) -> None:
    changes = FAMILIES[family] | {"optimizer": optimizer, "lr": 1e-3, "dead_latents": "resample"}
    made = Trainer(SaeConfig(d_in=6, d_sae=20, k=3, dead_after_tokens=2 * N, **changes))  # type: ignore[arg-type]
    for step in range(2):
        if step == 1:
            made.tokens_since_fired_F[DEAD] = 2 * N  # all others have been silent for N tokens at most
            with torch.no_grad():
                made.sae.b_enc_F[DEAD] = -100.0
        made.train_step(torch.randn(N, 6, generator=torch.Generator().manual_seed(step)))
        moments = {name: moment for name, moment in made.state().training.items() if name.startswith("optimizer.")}
        rows = {name: moment[DEAD] for name, moment in moments.items() if moment.ndim and "b_dec_E" not in name}
        assert {name.split(".")[2] for name in rows} == kept
        for name, row in rows.items():
            assert row.any() == (step == 0), name


def test_magnitudes_of_a_gated_transcoder_start_centred_as_its_gate_does() -> None:
    sae, x = build_sae(SaeConfig(d_in=6, d_sae=20, family="gated", d_out=4)), far_from_zero(6, seed=1)
    sae.centre(x, far_from_zero(4, seed=2))
    code = sae(x).code
    torch.testing.assert_close(code.acts_P, code.pre_P.relu())
