"""What each family makes of a few tokens, worked by hand, and how it starts."""

import math
from dataclasses import replace

import pytest
import torch

from tests.unit.worker_image.sae.test_losses import FAMILIES, KINDS, WIRINGS, small_sae, tokens
from worker_image.sae.config import SaeConfig
from worker_image.sae.evaluation import evaluate
from worker_image.sae.families import build_sae
from worker_image.sae.families.batch_topk import BatchTopKSae
from worker_image.sae.families.matryoshka import MatryoshkaSae
from worker_image.sae.trainer import Trainer
from worker_image.sae.whole_batch import WholeBatch

X = torch.tensor([[3.0, 1.0], [0.5, 2.0]])


def by_hand(**changes: object) -> torch.nn.Module:
    """Two inputs, three latents: one looks for each input, one for the second's opposite."""
    sae = build_sae(SaeConfig(**({"d_in": 2, "d_sae": 3, "k": 1} | changes)))  # type: ignore[arg-type]
    with torch.no_grad():
        sae.encoder_FD.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        sae.W_dec_FE.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    return sae


def test_topk_keeps_each_tokens_largest() -> None:
    assert by_hand()(X).code.dense().tolist() == [[3, 0, 0], [0, 2, 0]]


def test_batch_topk_keeps_the_largest_of_the_batch() -> None:
    x = torch.tensor([[3.0, 2.5], [0.5, 1.0]])
    assert by_hand(family="batch_topk")(x).code.dense().tolist() == [[3, 2.5, 0], [0, 0, 0]]


def test_deployed_batch_topk_keeps_what_exceeds_its_threshold_whatever_else_is_in_the_batch() -> None:
    sae = by_hand(family="batch_topk")
    sae.threshold.fill_(1.5)
    assert sae(X, deployed=True).code.dense().tolist() == [[3, 0, 0], [0, 2, 0]]
    assert sae(X[:1], deployed=True).code.dense().tolist() == [[3, 0, 0]]


def test_batch_topk_is_not_deployed_before_its_threshold_is_known() -> None:
    with pytest.raises(RuntimeError, match="not calibrated"):
        by_hand(family="batch_topk")(X, deployed=True)


def test_matryoshka_reconstructs_from_each_prefix() -> None:
    sae = by_hand(family="matryoshka", k=2, matryoshka_fractions=(1 / 3, 2 / 3))
    assert isinstance(sae, MatryoshkaSae)
    out = sae(X)
    assert [y_hat.tolist() for y_hat in sae.nested(X, out.code)] == [[[3, 0], [0.5, 0]], [[3, 1], [0.5, 2]]]
    assert out.y_hat_BE.tolist() == X.tolist()


def test_standard_keeps_everything_above_zero() -> None:
    assert by_hand(family="standard")(X).code.dense().tolist() == [[3, 1, 0], [0.5, 2, 0]]


def test_tied_weights_are_one_parameter() -> None:
    sae = by_hand(family="standard", l1_recipe="unit_norm", tied_weights=True)
    assert {name for name, _ in sae.named_parameters()} == {"W_dec_FE", "b_enc_F", "b_dec_E"}
    assert sae.encoder_FD is sae.W_dec_FE


def test_a_gate_lets_a_magnitude_through_and_does_not_shape_it() -> None:
    sae = by_hand(family="gated")
    with torch.no_grad():
        sae.b_enc_F.fill_(-0.7)
        sae.r_mag_F.fill_(torch.tensor(2.0).log())
        sae.b_mag_F.fill_(0.25)
    # The gate closes at 0.7: of the second token's 0.5 nothing passes. Magnitudes are 2 x + 0.25.
    torch.testing.assert_close(sae(X).code.dense(), torch.tensor([[6.25, 2.25, 0], [0, 4.25, 0]]))


def test_jumprelu_is_the_identity_above_its_threshold_and_zero_below() -> None:
    sae = by_hand(family="jumprelu", jumprelu_threshold=1.0)
    assert sae(X).code.dense().tolist() == [[3, 0, 0], [0, 2, 0]]
    assert sae(X, deployed=True).code.dense().tolist() == [[3, 0, 0], [0, 2, 0]]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("batch_topk", "matryoshka")])
def test_deployed_is_as_in_training(family: str) -> None:
    sae, x = small_sae(**FAMILIES[family]), tokens()
    torch.testing.assert_close(sae(x).y_hat_BE, sae(x, deployed=True).y_hat_BE)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_looking_for_latents_in_half_precision_changes_little_of_what_is_learned(family: str, half: str) -> None:
    gradients = []
    for dtype in ("float32", half):
        sae = small_sae(**FAMILIES[family] | {"encoder_dtype": dtype}).float()
        x = tokens().float()
        sae(x).y_hat_BE.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in sae.parameters() if p.grad is not None]))
    assert gradients[1].dtype == torch.float32
    assert torch.cosine_similarity(*gradients, dim=0) > 0.95


def test_deployed_latents_are_looked_for_in_the_type_of_the_weights() -> None:
    sae = by_hand(encoder_dtype="bfloat16")
    x = torch.tensor([[1.001, 1.0]])
    # In bfloat16 both are 1.
    assert sae(x, deployed=True).code.dense().tolist() == [[pytest.approx(1.001), 0, 0]]


def test_a_transcoder_starts_by_predicting_the_mean() -> None:
    sae = build_sae(SaeConfig(d_in=2, d_sae=3, k=1, d_out=4, skip_connection=True))
    y = torch.tensor([[0.0, 2.0, 4.0, 6.0], [2.0, 2.0, 2.0, 2.0]])
    sae.centre(X, y)
    torch.testing.assert_close(sae(X).y_hat_BE, y.mean(0).expand(2, 4))
    torch.testing.assert_close(sae.b_enc_F, -(sae.W_enc_FD @ X.mean(0)))


def test_the_skip_of_an_autoencoder_cannot_make_reconstruction_free() -> None:
    sae = build_sae(SaeConfig(d_in=2, d_sae=3, k=1, skip_connection=True, skip_share=0.25))
    with torch.no_grad():
        sae.skip_gate_D.fill_(100.0)
        sae.b_dec_E.fill_(1.0)
    torch.testing.assert_close(sae.skipped(X), 0.25 * (X - 1.0))


def test_the_decoder_norm_of_a_crosscoder_is_the_sum_over_its_layers() -> None:
    sae = build_sae(SaeConfig(d_in=4, d_sae=1, k=1, layers=2))
    with torch.no_grad():
        sae.W_dec_FE.copy_(torch.tensor([[3.0, 4.0, 0.0, 2.0]]))
    assert sae.decoder_norm_F.tolist() == [7]


def test_recipes_hold_for_activations_of_any_size() -> None:
    for name in ("standard april", "standard unit norm", "gated", "jumprelu tanh", "jumprelu quadratic"):
        losses = []
        for size in (1.0, 100.0):
            config = SaeConfig(**({"d_in": 6, "d_sae": 20} | FAMILIES[name]))  # type: ignore[arg-type]
            sae, x = build_sae(config).double(), size * tokens()
            sae.centre(x, x)
            out = sae(x)
            found = sae.losses(x, x, out, torch.tensor([], dtype=torch.int64), WholeBatch(x))
            losses.append([found.reconstruction.item(), found.sparsity.item(), out.code.l0.item()])
        assert losses[0] == pytest.approx(losses[1], rel=1e-6), name


PENALISED = ["standard april", "standard unit norm", "gated", "jumprelu tanh"]


@pytest.mark.parametrize("family", [*PENALISED, "jumprelu quadratic"])
def test_recipes_of_a_transcoder_hold_for_targets_of_any_size(family: str) -> None:
    sae, x, y = small_sae(**FAMILIES[family], d_out=4), tokens(), tokens(width=4, seed=3)
    losses = []
    for size in (1.0, 0.01):
        with torch.no_grad():
            sae.W_dec_FE *= size
            sae.b_dec_E *= size
        found = sae.losses(x, size * y, sae(x), torch.tensor([3]), WholeBatch(size * y))
        losses.append([0.0 if each is None else each.item() for each in vars(found).values()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("family", PENALISED)
def test_longer_decoder_rows_with_weaker_latents_lose_as_much_in_a_transcoder(family: str) -> None:
    sae, (x, y) = small_sae(**FAMILIES[family], d_out=4), (tokens(), tokens(width=4, seed=3))
    losses = []
    for factor in (1.0, 8.0):
        with torch.no_grad():
            sae.W_dec_FE *= factor
            for name, parameter in sae.named_parameters():
                if name in ("W_enc_FD", "b_enc_F", "b_mag_F"):
                    parameter /= factor
                elif name == "log_threshold_F":
                    parameter -= math.log(factor)
        found = sae.losses(x, y, sae(x), torch.tensor([3]), WholeBatch(y))
        losses.append([0.0 if each is None else each.item() for each in vars(found).values()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_penalty_of_a_transcoder_worked_by_hand() -> None:
    sae = build_sae(SaeConfig(d_in=2, d_sae=1, family="standard", l1_recipe="unit_norm", d_out=2))
    with torch.no_grad():
        sae.W_enc_FD.copy_(torch.tensor([[2.0, 0.0]]))
        sae.W_dec_FE.copy_(torch.tensor([[3.0, 4.0]]))
    x, y = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[6.0, 8.0], [-6.0, -8.0]])
    found = sae.losses(x, y, sae(x), torch.tensor([], dtype=torch.int64), WholeBatch(y))
    # Targets are 10 long. The first is met by a latent of 2 with a row of length 5, the second is missed altogether.
    assert found.reconstruction.item() == pytest.approx((0 + 100) / 2 / 10**2)
    assert found.sparsity is not None
    assert found.sparsity.item() == pytest.approx((2 * 5 + 0) / 2 / 10)


@pytest.mark.parametrize(("family", "wiring"), KINDS)
def test_every_family_learns_in_every_wiring(family: str, wiring: str) -> None:
    config = SaeConfig(
        **(
            {"d_in": 6, "d_sae": 20, "k": 3, "lr": 5e-3, "steps": 60, "sparsity_coefficient": 0.02}
            | FAMILIES[family]
            | WIRINGS[wiring]
        )  # type: ignore[arg-type]
    )
    trainer = Trainer(config)
    x = tokens(128).float()
    mixed = torch.randn(6, 4, generator=torch.Generator().manual_seed(5))
    y = x @ mixed if config.is_transcoder else x
    trainer.sae.centre(x, y)
    before = evaluate(trainer.sae, x, 64, y).fvu
    for _ in range(60):
        trainer.train_step(x, y)
    assert evaluate(trainer.sae, x, 64, y).fvu < 0.9 * before
    assert all(parameter.isfinite().all() for parameter in trainer.sae.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_restoring_the_state_continues_bit_exactly(family: str) -> None:
    config = SaeConfig(
        **({"d_in": 6, "d_sae": 20, "k": 3, "lr": 5e-3, "steps": 50, "dead_after_tokens": 64} | FAMILIES[family])  # type: ignore[arg-type]
    )
    whole, first, second = Trainer(config), Trainer(config), Trainer(replace(config, seed=9))
    for trainer in (whole, first):
        trainer.sae.centre(tokens(64).float(), tokens(64).float())
    for step in range(6):
        whole.train_step(tokens(64, seed=step).float())
    for step in range(3):
        first.train_step(tokens(64, seed=step).float())
    second.restore(first.state())
    for step in range(3, 6):
        second.train_step(tokens(64, seed=step).float())
    for name, weight in whole.sae.state_dict().items():
        assert torch.equal(weight, second.sae.state_dict()[name]) or weight.isnan().all(), name


@pytest.mark.parametrize(
    ("family", "policy"),
    [("topk", "auxk"), ("topk", "ghost"), ("topk", "resample"), ("standard", "ghost"), ("standard", "resample")],
)
def test_each_policy_lowers_the_count_of_dead_latents(family: str, policy: str) -> None:
    def dead_after_training(chosen: str) -> int:
        config = SaeConfig(
            d_in=6, d_sae=32, k=2, family=family, dead_latents=chosen, dead_after_tokens=512, lr=1e-2, steps=100,  # type: ignore[arg-type]
            lr_schedule="constant", sparsity_coefficient=0.1,
        )  # fmt: skip
        trainer = Trainer(config)
        with torch.no_grad():
            # Too weak to fire unless something is done.
            trainer.sae.W_enc_FD[8:] *= 0.05
            trainer.sae.b_enc_F[8:] = -0.5 if family == "standard" else 0.0
        for step in range(100):
            trainer.train_step(tokens(256, seed=step).float())
        return trainer.dead_count

    assert dead_after_training("none") >= 20
    assert dead_after_training(policy) < 0.7 * dead_after_training("none")


def test_only_families_that_choose_by_batch_have_a_threshold_to_calibrate() -> None:
    calibrated = {name for name, changes in FAMILIES.items() if isinstance(small_sae(**changes), BatchTopKSae)}
    assert calibrated == {"batch_topk", "matryoshka"}
