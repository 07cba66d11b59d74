"""Each loss term by hand and its gradients against plain autograd."""

import torch
from torch import Tensor
from torch.nn import functional

from worker_image.sae.config import SaeConfig
from worker_image.sae.losses import auxk_loss, loss_of
from worker_image.sae.metrics import fvu
from worker_image.sae.model import TopKSae
from worker_image.sae.topk import plain_topk

NONE_DEAD = torch.tensor([], dtype=torch.int64)


def small_sae(**changes: object) -> TopKSae:
    config = SaeConfig(**({"d_in": 6, "d_sae": 20, "k": 3, "auxk_k": 2} | changes))  # type: ignore[arg-type]
    sae = TopKSae(config).double()
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return sae


def tokens(n: int = 32, d_in: int = 6) -> Tensor:
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def plain_loss(sae: TopKSae, x: Tensor, dead: Tensor) -> Tensor:
    """The whole loss as the paper writes it, densely, over all latents."""
    centred = x - sae.b_dec_D
    x_hat = plain_topk(centred, sae.W_enc_FD, sae.b_enc_F, sae.W_dec_FD, sae.config.k)[0] + sae.b_dec_D
    loss = (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
    if len(dead):
        residual = (x - x_hat).detach()
        pre = functional.linear(centred, sae.W_enc_FD, sae.b_enc_F)
        masked = torch.full_like(pre, -torch.inf)
        masked[:, dead] = pre[:, dead]
        top, idx = masked.topk(min(sae.config.aux_k, len(dead)), dim=1)
        predicted = torch.zeros_like(pre).scatter(1, idx, top.relu()) @ sae.W_dec_FD
        error = (residual - predicted).square().sum() / (residual - residual.mean(0)).square().sum()
        loss = loss + sae.config.auxk_alpha * min(len(dead) / sae.config.aux_k, 1) * error
    return loss


def gradients_of(sae: TopKSae, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(sae.parameters())))


def assert_same_as_plain(dead: Tensor, **changes: object) -> None:
    sae, x = small_sae(**changes), tokens()
    ours = loss_of(sae, x, sae(x), dead).total
    plain = plain_loss(sae, x, dead)
    torch.testing.assert_close(ours, plain)
    for found, wanted in zip(gradients_of(sae, ours), gradients_of(sae, plain), strict=True):
        torch.testing.assert_close(found, wanted)


def test_fvu_worked_by_hand() -> None:
    x = torch.tensor([[0.0], [2.0]])
    # Variance 1 + 1; errors 0 and 1.
    assert fvu(x, torch.tensor([[0.0], [1.0]])).item() == 0.5


def test_reconstruction_gradients_equal_plain_autograd() -> None:
    assert_same_as_plain(NONE_DEAD)


def test_auxk_gradients_equal_plain_autograd_with_more_dead_than_it_uses() -> None:
    assert_same_as_plain(torch.arange(5, 15), auxk_alpha=0.5)


def test_auxk_gradients_equal_plain_autograd_with_fewer_dead_than_it_uses() -> None:
    assert_same_as_plain(torch.tensor([4]), auxk_alpha=0.5, auxk_k=4)


def test_auxk_trains_the_dead_encoder_rows_and_no_living_one() -> None:
    sae, x, dead = small_sae(), tokens(), torch.tensor([2, 7])
    encoder = torch.autograd.grad(auxk_loss(sae, x, sae(x), dead), sae.W_enc_FD)[0]
    assert encoder[dead].abs().sum(dim=1).gt(0).all()
    encoder[dead] = 0
    assert not encoder.any()


def test_auxk_is_zero_without_dead_latents() -> None:
    sae, x = small_sae(), tokens()
    assert auxk_loss(sae, x, sae(x), NONE_DEAD).item() == 0


def test_auxk_is_scaled_by_the_share_of_dead_latents_it_asked_for() -> None:
    x, dead = tokens(), torch.tensor([2])
    one_wanted, four_wanted = small_sae(auxk_k=1), small_sae(auxk_k=4)
    full = auxk_loss(one_wanted, x, one_wanted(x), dead)
    torch.testing.assert_close(auxk_loss(four_wanted, x, four_wanted(x), dead), full / 4)


def test_a_residual_without_variance_gives_no_auxk_and_no_nan() -> None:
    sae = small_sae()
    x = tokens(1).expand(4, 6)  # one token four times: every residual is the same
    loss = loss_of(sae, x, sae(x)._replace(x_hat_BD=x + 1.0), torch.tensor([2, 7]))
    assert loss.auxk.item() == 0


def test_alpha_zero_turns_auxk_off() -> None:
    sae, x = small_sae(auxk_alpha=0.0), tokens()
    loss = loss_of(sae, x, sae(x), torch.tensor([2, 7]))
    assert loss.auxk.item() == 0
    assert loss.total.item() == loss.reconstruction.item()
