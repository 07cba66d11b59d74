"""A step's extras: parts of a batch, skipped steps, 8-bit weights, gradient statistics, and resuming with them."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from tests.unit.worker_image.sae.test_losses import FAMILIES, WIRINGS
from worker_image.sae.config import SaeConfig, WeightsDtype
from worker_image.sae.gradients import gradient_statistics, unmoved_shares
from worker_image.sae.losses import Loss
from worker_image.sae.precision import RoundedWeights
from worker_image.sae.trainer import MOST_HALVINGS, OptimizerOutOfMemory, Trainer


def trainer(**changes: object) -> Trainer:
    return Trainer(SaeConfig(**({"d_in": 6, "d_sae": 24, "k": 3, "lr": 1e-2, "steps": 50} | changes)))  # type: ignore[arg-type]


def tokens(n: int = 64, seed: int = 3) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


def assert_same(one: Trainer, other: Trainer) -> None:
    for name, weight in one.sae.state_dict().items():
        torch.testing.assert_close(weight, other.sae.state_dict()[name], equal_nan=True, msg=name)


DEAD = range(5, 15)


def half_dead(**changes: object) -> Trainer:
    """In float64, with ten of its latents dead."""
    made = trainer(auxk_k=4, auxk_alpha=0.5, dead_after_tokens=1000, **changes)
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.sae.double().parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=drawn)
        made.sae.input_norm.fill_(1.7)
    made.tokens_since_fired_F[list(DEAD)] = 1000
    return made


def gradients(made: Trainer) -> dict[str, Tensor]:
    return {name: p.grad for name, p in made.sae.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("size", [24, 8, 1])
@pytest.mark.parametrize("policy", ["none", "auxk", "ghost"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_a_batch_does_not_depend_on_its_parts(family: str, policy: str, size: int) -> None:
    whole, parts = (half_dead(**FAMILIES[family], dead_latents=policy, micro_batch_size=each) for each in (None, size))
    x = tokens().double() + torch.linspace(0, 2, 64).unsqueeze(1)  # parts differ in mean and size
    seen = [made.differentiate(x, measure=True) for made in (whole, parts)]
    wanted, found = gradients(whole), gradients(parts)
    assert wanted.keys() == found.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-10, atol=1e-12, msg=name)
    assert torch.equal(seen[0].fired_F, seen[1].fired_F)
    assert seen[0].l0.item() == pytest.approx(seen[1].l0.item(), rel=1e-6)
    for each in fields(Loss):
        one, other = (getattr(it.loss, each.name) for it in seen)
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12, msg=each.name)


@pytest.mark.parametrize("wiring", [name for name in WIRINGS if name != "autoencoder"])
@pytest.mark.parametrize("family", ["batch_topk", "jumprelu quadratic"])
def test_nor_in_any_wiring(family: str, wiring: str) -> None:
    wired = FAMILIES[family] | WIRINGS[wiring]
    whole, parts = (half_dead(**wired, dead_latents="auxk", micro_batch_size=each) for each in (None, 24))
    x = tokens().double()
    y = tokens(seed=4).double()[:, :4] if whole.config.is_transcoder else x
    for made in (whole, parts):
        made.differentiate(x, y)
    for name, wanted in gradients(whole).items():
        torch.testing.assert_close(gradients(parts)[name], wanted, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("family", ["standard", "gated"])
def test_a_batch_in_parts_makes_the_same_step_as_at_once(family: str) -> None:
    whole, parts = (trainer(family=family, micro_batch_size=size) for size in (None, 24))
    outcomes = [made.train_step(tokens(), measure=True) for made in (whole, parts)]
    assert_same(whole, parts)
    assert outcomes[0].values() == pytest.approx(outcomes[1].values(), rel=1e-5)
    assert torch.equal(whole.tokens_since_fired_F, parts.tokens_since_fired_F)


class ShortOfMemory:
    """Refuses more than so many tokens at once, as a full GPU does."""

    def __init__(self, made: Trainer, most: int) -> None:
        self.sizes: list[int] = []
        forward = made.sae.forward

        def refusing(x_BD: Tensor, **how: bool) -> object:
            self.sizes.append(len(x_BD))
            if len(x_BD) > most:
                raise torch.cuda.OutOfMemoryError("no room")
            return forward(x_BD, **how)

        made.sae.forward = refusing  # type: ignore[method-assign]


def test_out_of_memory_the_part_is_halved_and_the_batch_kept() -> None:
    made, asked = trainer(family="standard"), trainer(family="standard", micro_batch_size=16)
    memory = ShortOfMemory(made, most=20)
    made.train_step(tokens())
    assert memory.sizes == [64, 32, 16, 16, 16, 16]
    assert (made.micro_batch_size, made.step, made.tokens_trained) == (16, 1, 64)
    asked.train_step(tokens())
    assert_same(made, asked)


@pytest.mark.parametrize("family", ["topk", "batch_topk", "gated"])
def test_latents_are_resampled_without_holding_the_whole_batch_at_once(family: str) -> None:
    resampling = {"family": family, "dead_latents": "resample", "dead_after_tokens": 64, "k": 1}
    made, roomy = trainer(micro_batch_size=16, **resampling), trainer(micro_batch_size=16, **resampling)
    memory = ShortOfMemory(made, most=16)
    for each in (made, roomy):
        with torch.no_grad():
            each.sae.b_enc_F[8:] = -10.0
        each.train_step(tokens())
    assert set(memory.sizes) == {16}
    assert made.tokens_since_fired_F[8:].eq(0).all()
    assert_same(made, roomy)


def test_a_probe_of_what_a_step_costs_is_taken_in_parts_as_the_step_is() -> None:
    made = trainer(micro_batch_size=16)
    memory = ShortOfMemory(made, most=16)
    made.differentiate(tokens())
    assert memory.sizes == [16, 16, 16, 16]


def test_after_three_halvings_nothing_is_tried_any_more_and_nothing_was_learned() -> None:
    made, untouched = trainer(), trainer()
    memory = ShortOfMemory(made, most=0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        made.train_step(tokens())
    assert len(memory.sizes) == MOST_HALVINGS + 1
    assert made.step == 0
    assert_same(made, untouched)


def test_a_rehearsal_leaves_no_trace_though_memory_was_short_meanwhile() -> None:
    made = trainer()
    ShortOfMemory(made, most=20)
    made.rehearse(tokens())
    assert (made.micro_batch_size, made.step) == (None, 0)
    assert all(parameter.grad is None for parameter in made.sae.parameters())


def test_moments_that_do_not_fit_are_told_from_a_batch_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer()

    def no_room(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("no room")

    monkeypatch.setattr(made._optimizer, "step", no_room)
    with pytest.raises(OptimizerOutOfMemory):
        made.train_step(tokens())
    assert made.micro_batch_size is None


def test_a_step_whose_loss_is_not_finite_is_skipped() -> None:
    made, untouched = trainer(nan_patience=2), trainer()
    bad = tokens()
    bad[5, 2] = torch.nan
    made.train_step(bad)
    assert_same(made, untouched)
    assert (made.step, made.skipped_steps, made.last_loss) == (1, 1, None)
    made.train_step(tokens())
    assert made.last_loss is not None


def test_a_finite_loss_with_gradients_that_are_not_is_lost_too() -> None:
    made, untouched = trainer(nan_patience=1), trainer()
    with torch.no_grad():
        for each in (made, untouched):
            each.sae.W_enc_FD[0, 0] = 1e-30
    made.sae.W_dec_FE.register_hook(lambda gradient: gradient * torch.inf)
    made.train_step(tokens())
    assert made.skipped_steps == 1
    assert_same(made, untouched)


def test_patience_ends_and_good_steps_renew_it() -> None:
    made, bad = trainer(nan_patience=1), tokens() * torch.nan
    for _ in range(2):
        made.train_step(bad)
        made.train_step(tokens())
    assert made.last_loss == made.last_loss  # finite
    made.train_step(bad)
    made.train_step(bad)
    assert made.last_loss != made.last_loss


def linear(*weights: float) -> torch.nn.Linear:
    module = torch.nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([weights]))
    return module


@pytest.mark.parametrize(
    ("dtype", "exact", "held"),
    [
        # E4M3 holds 448 at most: the scale is 1, and between 256 and 448 its steps are 32.
        ("float8_e4m3", (448.0, 300.0, 1.0), [448, 288, 1]),
        # Twice as large, the scale is 2.
        ("float8_e4m3", (896.0, 600.0, 2.0), [896, 576, 2]),
        # E5M2 has two bits of mantissa: 1.3 is nearest to 1.25.
        ("float8_e5m2", (57344.0, 1.3), [57344, 1.25]),
    ],
)
def test_fp8_weights_worked_by_hand(dtype: WeightsDtype, exact: tuple[float, ...], held: list[float]) -> None:
    module = linear(*exact)
    RoundedWeights(module, dtype)
    assert module.weight.tolist() == [held]


def test_bits_that_do_not_change_are_counted_among_weights_that_moved() -> None:
    module = linear(448.0, 256.0, 256.0, 256.0)
    weights = RoundedWeights(module, "float8_e4m3")
    weights.unround()
    with torch.no_grad():
        module.weight += torch.tensor([[0.0, 1.0, 1.0, 40.0]])
    weights.take_over()
    assert weights.stalled_share is not None
    assert weights.stalled_share.item() == pytest.approx(2 / 3)
    assert module.weight.tolist() == [[448, 256, 256, 288]]
    assert weights.state()["weight"].tolist() == [[448, 257, 257, 296]]


def test_steps_too_small_for_a_bit_add_up_in_the_masters() -> None:
    made = trainer(weights_dtype="float8_e5m2", lr=1e-3, lr_schedule="constant")
    losses = [made.train_step(tokens()).values() for _ in range(40)]
    assert losses[0]["bit_stall_share"] > 0.5
    assert losses[-1]["loss"] < losses[0]["loss"]


def test_resampled_latents_reach_the_masters() -> None:
    made = trainer(weights_dtype="float8_e4m3", dead_latents="resample", dead_after_tokens=64, k=1)
    with torch.no_grad():
        made.sae.b_enc_F[8:] = -10.0
    made.train_step(tokens())
    masters = {name: master.clone() for name, master in made.state().training.items() if name.startswith("master.")}
    rows = made.sae.W_dec_FE.detach()[8:]
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(16), rtol=0.1, atol=0)
    torch.testing.assert_close(masters["master.W_dec_FE"][8:], rows, rtol=0.07, atol=1e-2)
    assert made.sae.b_enc_F[8:].eq(0).all()


def test_gradient_statistics_worked_by_hand() -> None:
    weights, gradients = {"w": torch.tensor([1.0, torch.nan])}, {"w": torch.tensor([3.0, -1.0])}
    found = gradient_statistics(weights, gradients, {"w": torch.tensor([0.0, -2.0])})
    assert {name: round(value.item(), 6) for name, value in found.items()} == {
        "grad/w/l2": round(10**0.5, 6),
        "grad/w/linf": 3,
        "grad/w/dead_share": 0,
        "grad/w/snr": 0.5,
        "grad/w/mean": 1,
        "grad/w/min": -1,
        "grad/w/cosine": round(10**-0.5, 6),
        "weight/w/not_finite": 1,
    }
    assert gradient_statistics(weights, {"w": torch.tensor([0.0, 1e-9])}, {})["grad/w/dead_share"] == 1
    unmoved = unmoved_shares({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 2.5])})
    assert unmoved["weight/w/unmoved_share"] == 0.5


@pytest.mark.parametrize("size", [1.0, 1e30], ids=["ordinary", "finite entries of infinite norm"])
def test_measuring_a_step_moves_no_weight(size: float) -> None:
    measured, plain = trainer(optimizer="signum"), trainer(optimizer="signum")
    for made in (measured, plain):
        made.sae.W_enc_FD.register_hook(lambda gradient: gradient * size)
    outcome = measured.train_step(tokens(), measure=True)
    plain.train_step(tokens())
    assert outcome.grad_norm is not None
    assert outcome.grad_norm.isfinite() == (size == 1.0)
    for name, weight in plain.sae.state_dict().items():
        assert weight.isfinite().all()
        assert torch.equal(weight, measured.sae.state_dict()[name]), name


def test_statistics_are_of_the_loss_not_of_what_clipping_and_unit_norms_leave_of_its_gradient() -> None:
    made = trainer(gradient_statistics_every_steps=1, grad_clip=1e-3)
    made.differentiate(tokens())
    norms = {name: gradient.norm().item() for name, gradient in gradients(made).items()}
    found = made.train_step(tokens()).values()
    assert {name: found[f"grad/{name}/l2"] for name in norms} == pytest.approx(norms)


def test_statistics_come_when_they_are_due_and_change_nothing() -> None:
    looked, plain = trainer(gradient_statistics_every_steps=2), trainer()
    outcomes = [looked.train_step(tokens(seed=step)) for step in range(4)]
    for step in range(4):
        plain.train_step(tokens(seed=step))
    assert_same(looked, plain)
    assert [bool(outcome.statistics) for outcome in outcomes] == [False, True, False, True]
    assert -1 <= outcomes[1].values()["grad/W_enc_FD/cosine"] <= 1
    assert 0 <= outcomes[1].values()["weight/W_enc_FD/unmoved_share"] < 1


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "sgd"},
        {"optimizer": "signum"},
        {"optimizer": "muon"},
        {"weights_dtype": "float8_e4m3"},
        {"encoder_dtype": "bfloat16"},
        {"encoder_dtype": "float16"},
        {"encoder_dtype": "float16", "family": "batch_topk", "micro_batch_size": 24},
        {"micro_batch_size": 24, "gradient_statistics_every_steps": 4},
        {"family": "gated"},
    ],
    ids=str,
)
def test_a_resumed_training_is_the_same_to_the_bit(changes: dict[str, object]) -> None:
    whole, first, second = trainer(**changes), trainer(**changes), trainer(**changes, seed=9)
    found = [whole.train_step(tokens(seed=step)).values() for step in range(6)]
    for step in range(3):
        first.train_step(tokens(seed=step))
    state = first.state()
    kept = replace(state, training={name: tensor.clone() for name, tensor in state.training.items()})
    second.restore(kept)
    assert [second.train_step(tokens(seed=step)).values() for step in range(3, 6)] == found[3:]
    for name, weight in whole.sae.named_parameters():
        assert torch.equal(weight, second.sae.get_parameter(name)), name
