"""A training step: what it keeps true and what it counts."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from worker_image.sae.config import SaeConfig
from worker_image.sae.evaluation import evaluate
from worker_image.sae.metrics import dead_latents
from worker_image.sae.model import geometric_median
from worker_image.sae.trainer import Trainer


def trainer(**changes: object) -> Trainer:
    return Trainer(SaeConfig(**({"d_in": 6, "d_sae": 24, "k": 3, "lr": 1e-2, "steps": 50} | changes)))  # type: ignore[arg-type]


def tokens(n: int = 64) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(3))


def test_decoder_rows_keep_length_one() -> None:
    made = trainer()
    for _ in range(3):
        made.train_step(tokens())
    torch.testing.assert_close(made.sae.W_dec_FE.norm(dim=1), torch.ones(24))


def test_the_gradient_along_a_decoder_row_is_removed() -> None:
    made = trainer()
    made.differentiate(tokens())
    made.sae.remove_parallel_gradient()
    along = (made.sae.W_dec_FE.grad * made.sae.W_dec_FE).sum(dim=1)
    torch.testing.assert_close(along, torch.zeros(24), atol=1e-7, rtol=0)


def test_the_encoder_starts_as_the_decoder_transposed() -> None:
    made = trainer()
    assert torch.equal(made.sae.W_enc_FD, made.sae.W_dec_FE)


def test_training_lowers_the_loss() -> None:
    made = trainer()
    losses = [made.train_step(tokens()).loss.total.item() for _ in range(50)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_first_adam_step_moves_each_weight_by_the_learning_rate(optimizer: str) -> None:
    made = trainer(optimizer=optimizer)
    before = made.sae.W_enc_FD.detach().clone()
    made.train_step(tokens())
    moved = (made.sae.W_enc_FD.detach() - before).abs()
    torch.testing.assert_close(moved[moved > 0].max(), torch.tensor(1e-2), rtol=1e-3, atol=0)


def test_weight_decay_shrinks_weights_that_have_no_gradient() -> None:
    made = trainer(optimizer="adamw", weight_decay=0.5, k=1)
    before = made.sae.W_enc_FD.detach().clone()
    silent = (~made.differentiate(tokens(2)).fired_F).nonzero().squeeze(1)
    assert len(silent) == 22
    made.train_step(tokens(2))
    torch.testing.assert_close(made.sae.W_enc_FD.detach()[silent], before[silent] * (1 - 1e-2 * 0.5))


def test_clipping_limits_what_the_optimiser_sees() -> None:
    clipped = trainer(grad_clip=1e-3)
    outcome = clipped.train_step(tokens())
    assert outcome.grad_norm is not None
    assert outcome.grad_norm > 1e-3
    total = torch.stack([p.grad.norm() for p in clipped.sae.parameters() if p.grad is not None]).norm()
    assert total.item() == pytest.approx(1e-3, rel=1e-3)


def test_tokens_since_fired_are_counted_exactly() -> None:
    made = trainer(k=1)
    fired = set(made.differentiate(tokens(10)).fired_F.nonzero().squeeze(1).tolist())
    made.train_step(tokens(10))
    assert [count == 0 for count in made.tokens_since_fired_F.tolist()] == [latent in fired for latent in range(24)]
    assert set(made.tokens_since_fired_F.tolist()) == {0, 10}


def test_a_latent_silent_for_the_whole_of_a_short_run_is_reported_dead() -> None:
    silent_for = torch.tensor([0, 50, 100])
    assert dead_latents(silent_for, tokens_trained=100, dead_after_tokens=1000).tolist() == [False, False, True]
    assert dead_latents(silent_for, tokens_trained=100, dead_after_tokens=50).tolist() == [False, True, True]


def test_auxk_starts_only_when_the_limit_is_reached() -> None:
    made = trainer(k=1, dead_after_tokens=20)
    made.sae.b_enc_F.data[5:] = -100.0  # these will never fire
    losses = [made.train_step(tokens(10)).loss.auxk.item() for _ in range(3)]
    assert losses[:2] == [0, 0]
    assert losses[2] != 0 or made.sae.b_enc_F.grad[5:].eq(0).all()


def test_auxk_revives_dead_latents() -> None:
    def dead_after_training(alpha: float) -> int:
        made = trainer(k=2, d_sae=32, dead_after_tokens=512, auxk_alpha=alpha, lr_schedule="constant")
        made.sae.W_enc_FD.data[8:] *= 0.05  # too weak to be among the best two
        for _ in range(60):
            made.train_step(tokens(256))
        return made.dead_count

    assert dead_after_training(alpha=1 / 32) < 0.7 * dead_after_training(alpha=0.0)


def test_measuring_changes_nothing() -> None:
    made = trainer()
    made.train_step(tokens())
    before = [value.clone() for value in (*made.sae.state_dict().values(), made.tokens_since_fired_F)]
    evaluate(made.sae, tokens(), batch_tokens=10)
    made.differentiate(tokens())
    after = [*made.sae.state_dict().values(), made.tokens_since_fired_F]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_evaluation_does_not_depend_on_the_batch_size() -> None:
    made = trainer()
    small, large = (evaluate(made.sae, tokens(), batch_tokens=size) for size in (7, 64))
    assert small.fvu == pytest.approx(large.fvu, rel=1e-5)
    assert (small.l0, small.fired, small.tokens) == (large.l0, large.fired, large.tokens)
    assert large.explained_variance == pytest.approx(1 - large.fvu)


def test_restoring_the_state_continues_bit_exactly() -> None:
    whole, first, second = trainer(), trainer(), trainer(seed=9)
    for _ in range(6):
        whole.train_step(tokens())
    for _ in range(3):
        first.train_step(tokens())
    second.restore(first.state())
    for _ in range(3):
        second.train_step(tokens())
    assert torch.equal(whole.sae.W_dec_FE, second.sae.W_dec_FE)
    assert torch.equal(whole.sae.W_enc_FD, second.sae.W_enc_FD)


def test_the_geometric_median_ignores_an_outlier() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1000.0, 1000.0]])
    assert geometric_median(points, iterations=500).max() < 1.5


@pytest.mark.parametrize(
    ("changes", "controlled"),
    [
        ({"family": "standard", "target_l0": 4.0}, 4.0),
        ({"family": "gated", "target_l0": 4.0}, 4.0),
        ({"family": "jumprelu", "jumprelu_recipe": "tanh", "target_l0": 4.0}, 4.0),
        ({"family": "jumprelu", "target_l0": 4.0}, None),
        ({"family": "standard"}, None),
    ],
)
def test_a_controller_holds_l0_where_the_loss_does_not_aim_for_it(
    changes: dict[str, object], controlled: float | None
) -> None:
    made = trainer(sparsity_warmup_fraction=0.0, **changes)
    assert made.config.controlled_l0 == controlled
    start = float(made.coefficient)

    for _ in range(5):
        made.train_step(tokens())

    assert (float(made.coefficient) != start) == (controlled is not None)


def test_the_controller_waits_until_the_coefficient_has_risen() -> None:
    made = trainer(family="standard", target_l0=4.0, steps=100, sparsity_warmup_fraction=0.1)
    for _ in range(9):
        made.train_step(tokens())
    assert float(made.coefficient) == pytest.approx(made.config.initial_coefficient)

    made.train_step(tokens())

    assert float(made.coefficient) > made.config.initial_coefficient


def test_a_trainer_restored_goes_on_with_the_same_coefficients_to_the_bit() -> None:
    options = {"family": "standard", "target_l0": 4.0, "sparsity_warmup_fraction": 0.0}
    whole, resumed = trainer(**options), trainer(**options)
    for _ in range(10):
        whole.train_step(tokens())
    state = whole.state()
    resumed.restore(replace(state, training={name: value.clone() for name, value in state.training.items()}))

    pairs = [(whole.train_step(tokens()), resumed.train_step(tokens())) for _ in range(5)]

    assert [float(one.coefficient) for one, _ in pairs] == [float(other.coefficient) for _, other in pairs]
    assert torch.equal(whole.sae.W_dec_FE, resumed.sae.W_dec_FE)


def test_a_coefficient_set_by_hand_is_where_the_controller_goes_on() -> None:
    made = trainer(family="standard", target_l0=4.0, sparsity_warmup_fraction=0.0)

    made.reconfigure({"sparsity_coefficient": 0.5})

    assert float(made.coefficient) == pytest.approx(0.5)


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
def test_a_coefficient_set_by_hand_stays_where_no_target_was_named(coefficient: float) -> None:
    made = trainer(family="gated", sparsity_warmup_fraction=0.0)
    made.train_step(tokens())

    made.reconfigure({"sparsity_coefficient": coefficient})
    made.train_step(tokens())

    assert float(made.coefficient) == coefficient


def test_thresholds_of_the_quadratic_jumprelu_learn_faster_than_weights() -> None:
    made = trainer(family="jumprelu", target_l0=2.0, lr=1e-4, jumprelu_bandwidth=0.5, jumprelu_threshold=0.1)
    weights, thresholds = made.sae.encoder_FD.detach().clone(), made.sae.log_threshold_F.detach().clone()

    made.train_step(tokens())

    # With a first moment that forgets at once, Adam's first step is as long as its rate.
    assert (made.sae.encoder_FD - weights).abs().max().item() == pytest.approx(1e-4, rel=1e-2)
    assert (made.sae.log_threshold_F - thresholds).abs().max().item() == pytest.approx(50e-4, rel=1e-2)


def test_with_a_controller_the_april_recipe_starts_with_little_sparsity() -> None:
    assert trainer(family="standard").config.initial_coefficient == 5.0
    assert trainer(family="standard", target_l0=4.0).config.initial_coefficient == 0.5
    assert trainer(family="standard", target_l0=4.0, sparsity_coefficient=2.0).config.initial_coefficient == 2.0
