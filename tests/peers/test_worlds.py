"""Worlds and scores are SAELens's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.peers.environment import run_program
from worker_image.sae.recovery import Detection, alignment, mean_correlation, uniqueness
from worker_image.sae.worlds import SYNTH_SAE_BENCH_16K, Forest, World, correlation_factor


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    file: Path = tmp_path_factory.mktemp("peers") / "world.safetensors"
    run_program("synthesise", file)
    return load_file(file)


@pytest.fixture(scope="module")
def ours() -> World:
    forest = Forest(roots=2, branching=4, depth=3, compensated=True, scaled=True)
    return World(replace(SYNTH_SAE_BENCH_16K, n_features=256, d_in=32, forest=forest, orthogonal_steps=5))


def test_the_same_recipe_has_the_same_directions_and_the_same_law(theirs: dict[str, Tensor], ours: World) -> None:
    torch.testing.assert_close(ours.directions_GD, theirs["directions"], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.bias_D, theirs["bias"])
    torch.testing.assert_close(ours.firing_G, theirs["firing"])
    torch.testing.assert_close(ours.mean_G, theirs["mean"])
    torch.testing.assert_close(ours.std_G, theirs["std"])
    torch.testing.assert_close(correlation_factor(256, 25, 0.1, seed=46), theirs["factor"])


def test_features_fire_as_often_and_as_strongly(theirs: dict[str, Tensor], ours: World) -> None:
    tokens = 20_000
    acts_BG = ours.sample(tokens, ours.generator(0)).acts_BG.double()
    fires_BG = acts_BG > 0

    rate_G, their_rate_G = fires_BG.double().mean(0), theirs["rates"]
    deviation_G = (2 * their_rate_G * (1 - their_rate_G) / tokens).sqrt() + 1e-4
    assert ((rate_G - their_rate_G).abs() < 5 * deviation_G).all()
    frequent_G = their_rate_G > 0.02
    strength_G = acts_BG.sum(0) / fires_BG.sum(0).clamp_min(1)
    torch.testing.assert_close(strength_G[frequent_G], theirs["strengths"][frequent_G], rtol=0.05, atol=0)


def test_the_scores_agree(theirs: dict[str, Tensor]) -> None:
    alignment_FG = alignment(theirs["learned"], theirs["directions"])
    detection = Detection(alignment_FG)
    detection.add(theirs["fires"], theirs["truth"])

    assert mean_correlation(alignment_FG) == pytest.approx(theirs["mcc"].item(), abs=1e-6)
    assert uniqueness(alignment_FG) == pytest.approx(theirs["uniqueness"].item())
    assert detection.f1 == pytest.approx(theirs["f1"].item(), abs=1e-6)
