"""Looking for active latents in half precision: what is found, and that nothing overflows unseen."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.unit.worker_image.sae.test_families import by_hand
from tests.unit.worker_image.sae.test_losses import FAMILIES, small_sae, tokens
from worker_image.sae.config import SaeConfig
from worker_image.sae.lookup import Lookup
from worker_image.sae.trainer import Trainer


def product(lookup: Lookup) -> Tensor:
    return functional.linear(lookup.x_BD, lookup.W_FD, lookup.b_F.to(lookup.W_FD.dtype))


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_scale_of_float16_worked_by_hand() -> None:
    x, W, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([-20.0])
    lookup = Lookup.of(x, W, b, torch.float16)
    # The encoder's length 1 becomes 128; the input is 5 long and the bias 20, which 2 brings below 64.
    assert lookup.scale is not None
    assert lookup.scale.item() == 256
    assert product(lookup).tolist() == [[(4 - 20) * 256]]
    assert lookup.unscaled(product(lookup).view(-1), x).tolist() == [-16]
    assert lookup.floor(torch.tensor([-16.0])).tolist() == [-4096]


@pytest.mark.parametrize("weights", [1e-3, 1.0, 1e5])
@pytest.mark.parametrize("size", [1e-9, 1e-4, 1.0, 1e3, 65_505.0, 1e12])
def test_products_of_any_size_stay_finite_and_right_in_float16(size: float, weights: float) -> None:
    x, W, b = size * drawn(40, 32, seed=1), weights * drawn(64, 32, seed=2), size * weights * drawn(64, seed=3)
    lookup = Lookup.of(x, W, b, torch.float16)
    exact = functional.linear(x.double(), W.double(), b.double())
    found = lookup.unscaled(product(lookup), exact)
    longest = x.norm(dim=1).max() * W.norm(dim=1).max()
    assert found.isfinite().all()
    assert ((found - exact).abs().max() / longest.double()).item() < 2**-10


def test_a_power_of_two_changes_nothing_that_is_found() -> None:
    x, W, b = drawn(40, 32, seed=1), drawn(64, 32, seed=2), drawn(64, seed=3)
    one, other = Lookup.of(x, W, b, torch.float16), Lookup.of(x * 2**30, W, b * 2**30, torch.float16)
    assert torch.equal(product(one), product(other))


def test_a_bias_that_outweighs_all_inputs_does_not_overflow_either() -> None:
    lookup = Lookup.of(drawn(4, 32, seed=1), drawn(8, 32, seed=2), torch.full((8,), 1e9), torch.float16)
    assert product(lookup).isfinite().all()


def test_an_activation_beyond_the_end_of_float16_is_found_and_has_its_value() -> None:
    x = torch.tensor([[1e6, 2.0], [300.0, 7e5]])
    sae = by_hand(encoder_dtype="float16")
    torch.testing.assert_close(sae(x).code.dense(), torch.tensor([[1e6, 0, 0], [0, 7e5, 0]]), rtol=2**-11, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_reaches_the_loss(family: str, bad: float) -> None:
    config = SaeConfig(**({"d_in": 6, "d_sae": 20, "k": 3} | FAMILIES[family] | {"encoder_dtype": "float16"}))  # type: ignore[arg-type]
    x = tokens().float()
    x[5, 2] = bad
    assert not Trainer(config).train_step(x).loss.total.isfinite()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e6])
def test_float16_chooses_what_float32_chooses_but_for_near_ties(family: str, size: float) -> None:
    sae, looking = (small_sae(**FAMILIES[family], encoder_dtype=dtype).float() for dtype in ("float32", "float16"))
    x = size * tokens(256).float()
    with torch.no_grad():
        for each in (sae, looking):
            each.centre(x, x)
            for name, parameter in each.named_parameters():
                if name in ("b_enc_F", "b_mag_F"):
                    parameter *= size
    exact, found = sae(x).code.dense().detach(), looking(x).code.dense().detach()
    assert found.dtype == torch.float32
    assert ((exact > 0) != (found > 0)).float().mean() < 2e-3
    both = (exact > 0) & (found > 0)
    torch.testing.assert_close(found[both], exact[both], rtol=0.02, atol=2e-3 * float(exact.max()))
