"""The statistics of synthetic worlds, and their parts on cases worked by hand."""

import itertools
from dataclasses import replace

import pytest
import torch

from worker_image.sae.worlds import (
    HIERARCHICAL,
    INDEPENDENT,
    SYNTH_SAE_BENCH_16K,
    FoldedNormal,
    Forest,
    Stepped,
    World,
    WorldRecipe,
    Zipf,
    compensated,
    correlation_factor,
    gate_,
    orthogonalised,
)

TOKENS = 20_000


def small_bench(**changes: object) -> WorldRecipe:
    """SynthSAEBench's law at a size for a test: two trees of 85 and 86 features beyond them."""
    forest = Forest(roots=2, branching=4, depth=3, compensated=True, scaled=True)
    recipe = replace(SYNTH_SAE_BENCH_16K, n_features=256, d_in=32, forest=forest, orthogonal_steps=5)
    return replace(recipe, **changes)  # type: ignore[arg-type]


def test_probabilities_run_from_most_to_least_along_a_power_of_the_rank() -> None:
    firing_G = Zipf(exponent=1.0, most=0.3, least=0.1).probabilities(3)

    # 1, 1/2, 1/3 stretched to [.1, .3]: the middle one is a quarter of the way up.
    assert firing_G.tolist() == pytest.approx([0.3, 0.15, 0.1])


def test_the_same_seed_makes_the_same_world_and_the_same_tokens() -> None:
    one, other = World(HIERARCHICAL), World(HIERARCHICAL)

    assert torch.equal(one.directions_GD, other.directions_GD)
    assert torch.equal(one.sample(7, one.generator(3)).x_BD, other.sample(7, other.generator(3)).x_BD)
    assert not torch.equal(one.sample(7, one.generator(3)).x_BD, one.sample(7, one.generator(4)).x_BD)


def test_activations_are_the_sum_of_the_directions_that_fire_and_a_bias() -> None:
    world = World(small_bench())

    x_BD, acts_BG = world.sample(50, world.generator(0))

    assert world.bias_D.norm().item() == pytest.approx(0.5)
    assert torch.allclose(x_BD, acts_BG @ world.directions_GD + world.bias_D, atol=1e-5)


@pytest.mark.parametrize(("recipe", "true_l0"), [(INDEPENDENT, 2.96), (HIERARCHICAL, 3.13)])
def test_the_toy_worlds_have_the_true_l0_they_are_named_by(recipe: WorldRecipe, true_l0: float) -> None:
    world = World(replace(recipe, orthogonal_steps=0))

    _, acts_BG = world.sample(TOKENS, world.generator(0))

    assert (acts_BG > 0).sum(1).double().mean().item() == pytest.approx(true_l0, abs=0.04)


def test_features_of_a_world_that_fits_its_width_are_orthogonal() -> None:
    directions_GD = World(INDEPENDENT).directions_GD

    assert torch.allclose(directions_GD @ directions_GD.T, torch.eye(64), atol=0.02)


def test_pushing_directions_apart_lowers_their_overlap_and_keeps_their_length() -> None:
    drawn_GD = torch.nn.functional.normalize(torch.randn(96, 32, generator=torch.Generator().manual_seed(0)))

    pushed_GD = orthogonalised(drawn_GD, steps=50, lr=0.01)

    def overlap(directions_GD: torch.Tensor) -> float:
        return (directions_GD @ directions_GD.T - torch.eye(96)).square().sum().item()

    assert overlap(pushed_GD) < 0.9 * overlap(drawn_GD)
    assert torch.allclose(pushed_GD.norm(dim=1), torch.ones(96))


def test_independent_features_fire_as_often_and_as_strongly_as_the_recipe_says() -> None:
    world = World(replace(INDEPENDENT, magnitude=(5.0, 4.0), magnitude_std=0.5))

    _, acts_BG = world.sample(TOKENS, world.generator(0))

    rate_G = (acts_BG > 0).double().mean(0)
    deviation_G = (world.firing_G * (1 - world.firing_G) / TOKENS).sqrt()
    assert ((rate_G - world.firing_G).abs() < 5 * deviation_G).all()
    strongest_first = acts_BG[:, 0][acts_BG[:, 0] > 0]
    assert strongest_first.mean().item() == pytest.approx(5.0, abs=0.05)
    assert strongest_first.std().item() == pytest.approx(0.5, abs=0.03)


def test_no_child_fires_without_its_parent_nor_beside_a_sibling() -> None:
    world = World(small_bench())

    _, acts_BG = world.sample(TOKENS, world.generator(0))

    assert world.recipe.forest is not None
    levels = world.recipe.forest.levels
    assert levels == [(0, 2), (2, 10), (10, 42), (42, 170)]
    for (upper, upper_end), (lower, lower_end) in itertools.pairwise(levels):
        children_BPS = (acts_BG[:, lower:lower_end] > 0).unflatten(1, (-1, 4))
        parents_BP = acts_BG[:, upper:upper_end] > 0
        assert children_BPS.any()
        assert not (children_BPS.any(2) & ~parents_BP).any()
        assert children_BPS.sum(2).max() == 1


def test_compensated_children_fire_about_as_often_as_without_a_forest() -> None:
    recipe = small_bench(firing=Zipf(1.5, 0.3, 0.002), correlation_rank=0)
    world = World(recipe)

    _, acts_BG = world.sample(4 * TOKENS, world.generator(0))

    wanted_G = recipe.firing.probabilities(256)
    rate_G = (acts_BG > 0).double().mean(0)
    assert (rate_G[2:10] / wanted_G[2:10]).mean().item() == pytest.approx(1.0, abs=0.2)
    plain = World(replace(recipe, forest=Forest(roots=2, branching=4, depth=3)))
    uncompensated_G = (plain.sample(4 * TOKENS, plain.generator(0)).acts_BG > 0).double().mean(0)
    assert (uncompensated_G[2:10] / wanted_G[2:10]).mean() < 0.5


def test_compensation_divides_by_the_parent_and_makes_up_for_rivals() -> None:
    firing_G = torch.tensor([0.5, 0.1, 0.15, 0.3])

    raised_G = compensated(firing_G, Forest(roots=1, branching=2, depth=1))

    # Feature 1 needs .1 / .5, and loses to feature 2 more or less as often as that fires: .15 / .5.
    assert raised_G.tolist() == pytest.approx([0.5, 0.2 * 1.3, 0.3 * 1.2, 0.3])


def test_a_scaled_child_follows_its_parents_strength() -> None:
    forest = Forest(roots=1, branching=2, depth=1, scaled=True)
    acts_BG = torch.tensor([[4.0, 3.0, 0.0], [0.0, 3.0, 0.0]])

    gate_(acts_BG, forest, torch.tensor([2.0, 1.0, 1.0]), torch.Generator().manual_seed(0))

    assert acts_BG.tolist() == [[4.0, 6.0, 0.0], [0.0, 0.0, 0.0]]


def test_siblings_win_equally_often() -> None:
    acts_BG = torch.ones(TOKENS, 4)

    gate_(acts_BG, Forest(roots=1, branching=3, depth=1), torch.ones(4), torch.Generator().manual_seed(0))

    assert (acts_BG[:, 1:].sum(1) == 1).all()
    assert acts_BG[:, 1:].mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)


def test_correlated_features_keep_their_own_rates_and_fire_together() -> None:
    recipe = replace(INDEPENDENT, correlation_rank=1, correlation_scale=0.6)
    world = World(recipe)

    fires_BG = (world.sample(TOKENS, world.generator(0)).acts_BG > 0).double()

    deviation_G = (world.firing_G * (1 - world.firing_G) / TOKENS).sqrt()
    assert ((fires_BG.mean(0) - world.firing_G).abs() < 5 * deviation_G).all()
    factor_G = correlation_factor(64, 1, 0.6, seed=4)[:, 0]
    wanted_GG = torch.outer(factor_G, factor_G).fill_diagonal_(0)
    strongest, weakest = wanted_GG.argmax(), wanted_GG.argmin()
    together_GG = torch.corrcoef(fires_BG.T)
    assert together_GG.view(-1)[strongest] > 0.2
    assert together_GG.view(-1)[weakest] < -0.02


def test_no_feature_depends_on_shared_causes_alone() -> None:
    factor_GR = correlation_factor(1000, 25, 0.3, seed=0)

    shared_G = factor_GR.square().sum(1)
    assert shared_G.max().item() == pytest.approx(0.99)
    assert shared_G.min() < 0.99


def test_spread_may_differ_between_features() -> None:
    world = World(small_bench(magnitude_std=FoldedNormal(0.5, 0.5)))

    assert (world.std_G >= 0).all()
    # |N(.5, .5^2)| has mean .583.
    assert world.std_G.mean().item() == pytest.approx(0.583, abs=0.08)


def test_probabilities_in_steps_are_as_many_as_features() -> None:
    assert Stepped(((1, 0.5), (2, 0.25))).probabilities(3).tolist() == [0.5, 0.25, 0.25]
    with pytest.raises(ValueError, match="3 features long, the world has 4"):
        Stepped(((1, 0.5), (2, 0.25))).probabilities(4)


def test_a_forest_larger_than_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 4 features, the world has 3"):
        WorldRecipe(n_features=3, d_in=2, firing=Zipf(1.0, 0.3, 0.1), forest=Forest(roots=1, branching=3, depth=1))


def test_the_large_benchmark_has_the_published_true_l0() -> None:
    # Without pushing its directions apart, which is what takes long, and changes nothing about firing.
    world = World(replace(SYNTH_SAE_BENCH_16K, d_in=4, orthogonal_steps=0))

    _, acts_BG = world.sample(512, world.generator(0))

    assert (acts_BG > 0).sum(1).double().mean().item() == pytest.approx(34, abs=1.5)
