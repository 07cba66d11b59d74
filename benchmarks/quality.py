"""Whether every family finds features that are known: each is trained in synthetic worlds and held to figures.

    python -m benchmarks.quality                    # worlds A and C on the CPU: minutes
    python -m benchmarks.quality --families topk --worlds A --seeds 3
    python -m benchmarks.quality --gpu              # SynthSAEBench-16k: hours, on a GPU

Prints a Markdown table and exits with 1 when a figure is missed. Recipes are the product's defaults; a run says nothing
but sizes, the number of latents wanted, how soon a latent counts as dead (these runs are far shorter than 10 million
tokens), and what the goals name: TopK's rate, whose few latents per token come to stand for pairs the faster
it learns, and JumpReLU's rate and the width of its threshold's gradient, whose own are meant for runs and widths a
thousand times as large; in world C BatchTopK's, whose own leaves it a hair below its figure.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from statistics import mean
from typing import get_args

import torch

from benchmarks.table import show
from worker_image.sae.calibration import calibrate
from worker_image.sae.config import Family, SaeConfig
from worker_image.sae.recovery import Recovery, score
from worker_image.sae.trainer import Trainer
from worker_image.sae.worlds import HIERARCHICAL, INDEPENDENT, SYNTH_SAE_BENCH_16K, World, WorldRecipe

FAMILIES: tuple[Family, ...] = get_args(Family)

HELD_OUT_TOKENS = 16_384
"""On which the threshold is calibrated."""
SCORED_TOKENS = 50_000

MCC_TOLERANCE = 0.04
"""Seeds differ by this much."""
EV_TOLERANCE = 0.01
L0_TOLERANCE = 0.05
"""Share by which the L0 in use may exceed what was asked for; no figure is bought with latents."""
L0_SHORTFALL = 0.1
"""Share by which it may fall short."""
F1_TOLERANCE = 0.05
"""Seeds differ by this much."""
UNIQUENESS_TOLERANCE = 0.03


_FIRST_SEED = 100
"""Of the weights. A world draws its directions as an autoencoder draws its first weights: with the world's own seed it
would begin with the features that it is to find."""


@dataclass(frozen=True)
class Goal:
    """Figures of a family in a world: what SAELens reaches there, see docs/quality.md. Of F1, uniqueness and dead share
    nothing is known of it in the small worlds: they are as they were measured here."""

    l0: float
    """Latents per token that are asked for."""
    mcc: float
    explained_variance: float
    f1: float = 0.0
    uniqueness: float = 0.0
    dead_share: float = 1.0
    """The most there may be."""
    lr: float | None = None
    """Where it is not the family's default."""
    bandwidth: float | None = None
    """JumpReLU's, where it is not the recipe's."""

    def missed(self, found: Recovery) -> list[str]:
        """Names of the figures that are worse than tolerated."""
        # Where fewer features fire than latents are asked for, fewer are as good.
        least_l0 = (1 - L0_SHORTFALL) * min(self.l0, found.true_l0)
        checks = {
            "MCC": found.mcc >= self.mcc - MCC_TOLERANCE,
            "EV": found.explained_variance >= self.explained_variance - EV_TOLERANCE,
            "F1": found.f1 >= self.f1 - F1_TOLERANCE,
            "uniqueness": found.uniqueness >= self.uniqueness - UNIQUENESS_TOLERANCE,
            "dead": found.dead_share <= self.dead_share,
            "L0": least_l0 <= found.l0 <= self.l0 * (1 + L0_TOLERANCE),
        }
        return [name for name, met in checks.items() if not met]


@dataclass(frozen=True)
class Course:
    """A world, how long and how wide to train in it, and what is to come out."""

    recipe: WorldRecipe
    d_sae: int
    steps: int
    batch_size: int
    goals: dict[Family, Goal]


COURSES = {
    "A": Course(
        INDEPENDENT,
        d_sae=64,
        steps=4000,
        batch_size=512,
        goals={
            "topk": Goal(3, 0.94, 0.85, 0.84, 0.94, 0.02, lr=3e-4),
            "batch_topk": Goal(3, 0.97, 0.975, 0.96, 0.97, 0.05),
            "matryoshka": Goal(3, 0.98, 0.975, 0.97, 0.97, 0.05),
            "standard": Goal(3.2, 0.99, 0.97, 1.0, 1.0, 0.02),
            "gated": Goal(3, 1.0, 0.996, 1.0, 1.0, 0.02),
            "jumprelu": Goal(3, 0.95, 0.98, 0.97, 0.98, 0.05, lr=1e-3, bandwidth=0.2),
        },
    ),
    "C": Course(
        HIERARCHICAL,
        d_sae=128,
        steps=4000,
        batch_size=512,
        goals={
            "topk": Goal(4, 0.75, 0.904, 0.65, 0.83, 0.05, lr=1e-3),
            "batch_topk": Goal(4, 0.75, 0.974, 0.75, 0.91, 0.05, lr=4e-3),
            "matryoshka": Goal(4, 0.73, 0.955, 0.87, 0.95, 0.05),
            "standard": Goal(5.6, 0.82, 0.947, 0.66, 0.95, 0.02),
            "gated": Goal(4, 0.83, 0.978, 0.83, 0.95, 0.02),
            "jumprelu": Goal(4, 0.82, 0.972, 0.75, 0.92, 0.05, lr=4e-3, bandwidth=0.2),
        },
    ),
}
"""The worlds that a CPU trains in within minutes."""

LARGE = Course(
    SYNTH_SAE_BENCH_16K,
    d_sae=4096,
    steps=200_000_000 // 1024,
    batch_size=1024,
    goals={
        "batch_topk": Goal(25, 0.757, 0.792, 0.732, lr=3e-4),
        "matryoshka": Goal(25, 0.793, 0.779, 0.879, lr=3e-4),
        "jumprelu": Goal(25, 0.753, 0.795, 0.732, lr=3e-4),
        "standard": Goal(25, 0.604, 0.765, 0.556, lr=3e-4),
    },
)
"""SynthSAEBench-16k as its authors trained in it."""


@dataclass(frozen=True)
class Run:
    """One training."""

    world: str
    course: Course
    family: Family
    seed: int
    device: str = "cpu"

    @property
    def config(self) -> SaeConfig:
        """What is trained: the defaults of the family."""
        course, goal = self.course, self.course.goals[self.family]
        aim: dict[str, float | int] = {"k": int(goal.l0)}
        if self.family in ("standard", "gated", "jumprelu"):
            aim = {"target_l0": goal.l0}
        return SaeConfig(
            d_in=course.recipe.d_in,
            d_sae=course.d_sae,
            family=self.family,
            steps=course.steps,
            batch_size=course.batch_size,
            lr=goal.lr,
            dead_after_tokens=min(10_000_000, course.steps * course.batch_size // 100),
            seed=_FIRST_SEED + self.seed,
            jumprelu_bandwidth=goal.bandwidth,
            **aim,  # type: ignore[arg-type]
        )


def train(run: Run, world: World) -> Trainer:
    """Train in ``world`` and calibrate what needs it."""
    config = run.config
    trainer = Trainer(config, run.device)
    generator = world.generator(1000 + run.seed)
    sample_BD = world.sample(HELD_OUT_TOKENS, generator).x_BD
    trainer.sae.centre(sample_BD, sample_BD)
    for _ in range(config.steps):
        trainer.train_step(world.sample(config.batch_size, generator).x_BD)
    calibrate(trainer.sae, world.sample(HELD_OUT_TOKENS, generator).x_BD, config.batch_size)
    return trainer


def result(run: Run) -> Recovery:
    """Train and score: what a process of the pool does."""
    torch.set_num_threads(1)
    world = World(run.course.recipe, run.device)
    return score(train(run, world).sae, world, SCORED_TOKENS, seed=1)


def averaged(found: list[Recovery]) -> Recovery:
    """The mean of each figure over seeds."""
    return Recovery(**{field.name: mean(getattr(one, field.name) for one in found) for field in fields(Recovery)})


def rows(runs: list[Run], found: Iterator[Recovery]) -> tuple[list[list[object]], bool]:
    """The table's rows, a family in a world each, and whether all figures were met."""
    grouped: dict[tuple[str, Family], list[Recovery]] = {}
    for run, recovery in zip(runs, found, strict=True):
        grouped.setdefault((run.world, run.family), []).append(recovery)
        print(f"{run.world} {run.family} seed {run.seed}: {_figures(recovery)}", file=sys.stderr, flush=True)
    courses = {run.world: run.course for run in runs}
    table, all_met = list[list[object]](), True
    for (world, family), recoveries in grouped.items():
        one, goal = averaged(recoveries), courses[world].goals[family]
        missed = goal.missed(one)
        all_met = all_met and not missed
        spread = max(r.mcc for r in recoveries) - min(r.mcc for r in recoveries)
        table.append(
            [
                world,
                family,
                f"{one.mcc:.3f} (>= {goal.mcc:.2f})",
                f"{spread:.3f}",
                f"{one.explained_variance:.3f} (>= {goal.explained_variance:.3f})",
                f"{one.l0:.2f} ({goal.l0:g})",
                f"{one.f1:.3f}",
                f"{one.uniqueness:.3f}",
                f"{one.dead_share:.3f}",
                "missed: " + ", ".join(missed) if missed else "met",
            ]
        )
    return table, all_met


def _figures(one: Recovery) -> str:
    return "  ".join(f"{field.name} {getattr(one, field.name):.3f}" for field in fields(one))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--worlds", nargs="+", choices=list(COURSES), default=list(COURSES))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--gpu", action="store_true", help="train in SynthSAEBench-16k instead, on a GPU")
    wanted = parser.parse_args()
    courses = {"16k": LARGE} if wanted.gpu else {name: COURSES[name] for name in wanted.worlds}
    if wanted.gpu and not torch.cuda.is_available():
        parser.error("--gpu needs a GPU: 200 million tokens take days on a CPU")
    runs = [
        Run(name, course, family, seed, "cuda" if wanted.gpu else "cpu")
        for name, course in courses.items()
        for family in wanted.families
        if family in course.goals
        for seed in range(wanted.seeds)
    ]
    if wanted.gpu:
        table, met = rows(runs, map(result, runs))
    else:
        cores = len(os.sched_getaffinity(0))
        with multiprocessing.get_context("spawn").Pool(min(cores, len(runs))) as pool:
            table, met = rows(runs, pool.imap(result, runs))
    headings = ["world", "family", "MCC", "spread", "EV", "L0 in use", "F1", "uniqueness", "dead", ""]
    steps = next(iter(courses.values())).steps
    show(f"Recovery of known features, {steps} steps, mean of {wanted.seeds} seeds", headings, table)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
