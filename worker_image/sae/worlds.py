"""Synthetic worlds: activations made of directions that are known, so that what an SAE found can be compared with them.

A world draws, for each token, which of its features fire and how strongly, and adds up their directions:
x = sum_g a[g] direction[g] + bias. Three recipes are given: two toys that train in seconds on a CPU, and the large
world of SynthSAEBench (arXiv 2602.14687). The arithmetic is that of SAELens's ``sae_lens.synthetic``, down to the
seeds: on a CPU the same recipe has the same directions there.

Shapes: B tokens, D width, G features of the world, R rank of the correlation, S siblings.
"""

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_ORTHOGONALISED_AT_ONCE = 1024
"""Directions compared with all others at a time: a bound on memory."""

_LEAST_PRIVATE_VARIANCE = 0.01
"""What is left of a feature's variance that it shares with no other, at least."""


@dataclass(frozen=True)
class Zipf:
    """Firing probabilities that fall like a power of the rank, stretched to run from ``most`` to ``least``."""

    exponent: float
    most: float
    least: float

    def probabilities(self, n_features: int) -> Tensor:
        """Descending: (G,)."""
        share_G = torch.arange(1, n_features + 1, dtype=torch.float32) ** -self.exponent
        span_G = (share_G - share_G[-1]) / (share_G[0] - share_G[-1])
        return self.least + (self.most - self.least) * span_G


@dataclass(frozen=True)
class Stepped:
    """Firing probabilities that are the same for a run of features: pairs of how many and how likely."""

    runs: tuple[tuple[int, float], ...]

    def probabilities(self, n_features: int) -> Tensor:
        """(G,).

        Raises:
            ValueError: the runs are not as long as the world.
        """
        firing_G = torch.cat([torch.full((count,), probability) for count, probability in self.runs])
        if len(firing_G) != n_features:
            raise ValueError(f"the runs are {len(firing_G)} features long, the world has {n_features}")
        return firing_G


@dataclass(frozen=True)
class FoldedNormal:
    """Values |N(mean, std^2)|, one drawn for each feature."""

    mean: float
    std: float


@dataclass(frozen=True)
class Forest:
    """Trees of features: a child fires only together with its parent. Features are numbered level by level."""

    roots: int
    branching: int
    depth: int
    """Levels below the roots."""
    exclusive: bool = True
    """Of siblings that would fire together, one drawn at random does."""
    compensated: bool = False
    """Raise the children's probabilities by what waiting for parents and yielding to siblings costs them."""
    scaled: bool = False
    """A child is multiplied by how strongly its parent fires, over the parent's mean."""

    @property
    def levels(self) -> list[tuple[int, int]]:
        """First feature of each level and the one after its last, roots first."""
        edges = [0]
        for level in range(self.depth + 1):
            edges.append(edges[-1] + self.roots * self.branching**level)
        return list(itertools.pairwise(edges))


@dataclass(frozen=True)
class WorldRecipe:
    """All that makes a world."""

    n_features: int
    """G."""
    d_in: int
    """D."""
    firing: Zipf | Stepped
    magnitude: tuple[float, float] = (1.0, 1.0)
    """Mean activation when firing: of the first feature and of the last, linear in between."""
    magnitude_std: float | FoldedNormal = 0.0
    """Spread of an activation around its mean."""
    forest: Forest | None = None
    """Features beyond its trees fire independently."""
    correlation_rank: int = 0
    """Hidden causes that features share; 0 lets them fire independently."""
    correlation_scale: float = 0.1
    """How strongly features depend on each cause."""
    orthogonal_steps: int = 200
    """Steps of pushing directions apart."""
    orthogonal_lr: float = 0.01
    """Their size."""
    bias_norm: float = 0.0
    """Length of the constant added to all activations."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.forest is not None and self.forest.levels[-1][1] > self.n_features:
            raise ValueError(f"the forest needs {self.forest.levels[-1][1]} features, the world has {self.n_features}")


INDEPENDENT = WorldRecipe(n_features=64, d_in=64, firing=Zipf(1.0, 0.4, 0.024), magnitude_std=0.25)
"""World A: true L0 2.96 and no superposition. Tokens differ in how many features fire, so that three latents for each
token explain 86 % at best, and three for the average token all of it."""

HIERARCHICAL = WorldRecipe(
    n_features=128,
    d_in=64,
    firing=Stepped(((32, 0.055), (96, 0.4))),
    magnitude_std=0.2,
    forest=Forest(roots=32, branching=3, depth=1),
)
"""World C: true L0 3.13, two features for each dimension. Most tokens that show a parent show one of its children, so
that a latent is tempted to stand for both."""

SYNTH_SAE_BENCH_16K = WorldRecipe(
    n_features=16_384,
    d_in=768,
    firing=Zipf(0.5, 0.4, 5e-4),
    magnitude=(5.0, 4.0),
    magnitude_std=FoldedNormal(0.5, 0.5),
    forest=Forest(roots=128, branching=4, depth=3, compensated=True, scaled=True),
    correlation_rank=25,
    correlation_scale=0.1,
    orthogonal_steps=100,
    orthogonal_lr=3e-4,
    bias_norm=0.5,
    seed=42,
)
"""SynthSAEBench-16k: true L0 34. The published world was drawn on a GPU, so its directions are others."""


class Sample(NamedTuple):
    """Tokens of a world."""

    x_BD: Tensor
    """Activations as a model would give them."""
    acts_BG: Tensor
    """How strongly each feature fires; 0 where it does not."""


class World:
    """Features with their directions, and the law by which they fire."""

    def __init__(self, recipe: WorldRecipe, device: torch.device | str = "cpu") -> None:
        self.recipe = recipe
        self.device = torch.device(device)
        n, seed = recipe.n_features, recipe.seed
        # Everything is drawn on the CPU, so that a recipe makes one world wherever it is sampled.
        generator = torch.Generator().manual_seed(seed)
        directions_GD = functional.normalize(torch.randn(n, recipe.d_in, generator=generator))
        bias_D = functional.normalize(torch.randn(recipe.d_in, generator=generator), dim=0) * recipe.bias_norm
        self.directions_GD = orthogonalised(
            directions_GD.to(self.device), recipe.orthogonal_steps, recipe.orthogonal_lr
        )
        self.bias_D = bias_D.to(self.device)
        firing_G = recipe.firing.probabilities(n)
        if recipe.forest is not None and recipe.forest.compensated:
            firing_G = compensated(firing_G, recipe.forest)
        self.firing_G = firing_G.to(self.device)
        """Probability to fire before parents and siblings have their say."""
        self.mean_G = torch.linspace(*recipe.magnitude, n).to(self.device)
        self.std_G = _spread(recipe.magnitude_std, n, seed + 1).to(self.device)
        self._threshold_G = math.sqrt(2) * torch.erfinv(1 - 2 * self.firing_G)
        self._causes = None
        if recipe.correlation_rank:
            factor_GR = correlation_factor(n, recipe.correlation_rank, recipe.correlation_scale, seed + 4)
            private_G = (1 - factor_GR.square().sum(1)).sqrt()
            self._causes = factor_GR.to(self.device), private_G.to(self.device)

    def generator(self, seed: int) -> torch.Generator:
        """A source of randomness for ``sample``, on the world's device."""
        return torch.Generator(self.device).manual_seed(seed)

    @torch.no_grad()
    def sample(self, tokens: int, generator: torch.Generator) -> Sample:
        """``tokens`` fresh tokens."""
        shape = (tokens, self.recipe.n_features)
        if self._causes is None:
            fires_BG = torch.rand(shape, device=self.device, generator=generator) < self.firing_G
        else:
            # A Gaussian copula: correlated normal variables, each cut where its own probability is left above.
            factor_GR, private_G = self._causes
            causes_BR = torch.randn(tokens, factor_GR.shape[1], device=self.device, generator=generator)
            normal_BG = torch.randn(shape, device=self.device, generator=generator).mul_(private_G)
            fires_BG = normal_BG.addmm_(causes_BR, factor_GR.T) > self._threshold_G
        strength_BG = torch.randn(shape, device=self.device, generator=generator).mul_(self.std_G).add_(self.mean_G)
        acts_BG = strength_BG.relu_().mul_(fires_BG)
        if self.recipe.forest is not None:
            gate_(acts_BG, self.recipe.forest, self.mean_G, generator)
        return Sample(torch.addmm(self.bias_D, acts_BG, self.directions_GD), acts_BG)


def orthogonalised(directions_GD: Tensor, steps: int, lr: float) -> Tensor:
    """Unit vectors pushed apart by Adam on sum_{i != j} (d_i . d_j)^2 + G sum_i (d_i . d_i - 1)^2."""
    directions_GD = directions_GD.clone().requires_grad_()
    optimizer = torch.optim.Adam([directions_GD], lr=lr)
    n = len(directions_GD)
    for _ in range(steps):
        optimizer.zero_grad()
        for start in range(0, n, _ORTHOGONALISED_AT_ONCE):
            overlap_CG = directions_GD[start : start + _ORTHOGONALISED_AT_ONCE] @ directions_GD.T
            own_C = overlap_CG.diagonal(offset=start)
            others = overlap_CG.square().sum() - own_C.square().sum()
            (others + n * (own_C - 1).square().sum()).backward()
        optimizer.step()
    return functional.normalize(directions_GD.detach())


def compensated(firing_G: Tensor, forest: Forest) -> Tensor:
    """Probabilities with which features must try to fire in order to fire about as often as ``firing_G``, at most 1.

    A child is divided by its parent's probability, and multiplied by 1 + the number of siblings it can expect to
    compete with.
    """
    raised_G = firing_G.clone()
    levels = forest.levels
    for (upper, upper_end), (lower, lower_end) in itertools.pairwise(levels):
        parent_P1 = firing_G[upper:upper_end, None]
        children_PS = firing_G[lower:lower_end].view(-1, forest.branching)
        raised_PS = children_PS / parent_P1
        if forest.exclusive:
            rivals_PS = (children_PS.sum(1, keepdim=True) - children_PS).clamp_min(0) / parent_P1
            raised_PS = raised_PS * (1 + rivals_PS)
        raised_G[lower:lower_end] = raised_PS.reshape(-1)
    return raised_G.clamp_max(1)


def correlation_factor(n_features: int, rank: int, scale: float, seed: int) -> Tensor:
    """How each feature depends on each hidden cause: (G, R); rows are short enough to leave variance of their own."""
    generator = torch.Generator().manual_seed(seed)
    factor_GR = torch.randn(n_features, rank, generator=generator) * scale
    shared_G1 = factor_GR.square().sum(1, keepdim=True)
    excess_G1 = shared_G1 > 1 - _LEAST_PRIVATE_VARIANCE
    return torch.where(excess_G1, factor_GR * ((1 - _LEAST_PRIVATE_VARIANCE) / shared_G1).sqrt(), factor_GR)


def gate_(acts_BG: Tensor, forest: Forest, mean_G: Tensor, generator: torch.Generator) -> None:
    """Silence, in place and from the roots down, children without parent and siblings that lost the draw."""
    levels = forest.levels
    for (upper, upper_end), (lower, lower_end) in itertools.pairwise(levels):
        parents_BP1 = acts_BG[:, upper:upper_end, None]
        children_BPS = acts_BG[:, lower:lower_end].unflatten(1, (-1, forest.branching))
        if forest.exclusive:
            lots_BPS = torch.rand(children_BPS.shape, device=acts_BG.device, generator=generator)
            lots_BPS.masked_fill_(children_BPS == 0, -1.0)
            winner_BPS = torch.zeros_like(lots_BPS).scatter_(2, lots_BPS.argmax(2, keepdim=True), 1.0)
            children_BPS.mul_(winner_BPS)
        if forest.scaled:
            children_BPS.mul_(parents_BP1 / mean_G[upper:upper_end, None])
        else:
            children_BPS.mul_(parents_BP1 > 0)


def _spread(std: float | FoldedNormal, n_features: int, seed: int) -> Tensor:
    if isinstance(std, float):
        return torch.full((n_features,), std)
    generator = torch.Generator().manual_seed(seed)
    return (std.mean + std.std * torch.randn(n_features, generator=generator)).abs()
