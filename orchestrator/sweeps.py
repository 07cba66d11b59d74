"""Many jobs from one request: which parameters each of them gets. Pure."""

import itertools
import math
import random
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestrator.errors import InvalidInput

MOST_JOBS = 10_000
"""Jobs of one sweep."""


class Range(BaseModel):
    """Numbers to draw from."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    low: float
    high: float
    log: bool = False
    """Draw the logarithm evenly: for what is tried over orders of magnitude."""
    integer: bool = False
    """Draw whole numbers, both ends included."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.high:
            raise ValueError(f"low: {self.low:g} exceeds high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"low: must be above 0 to draw from its logarithm, not {self.low:g}")
        return self

    def draw(self, source: random.Random) -> float | int:
        if self.integer and not self.log:
            return source.randint(math.ceil(self.low), math.floor(self.high))
        if not self.log:
            return source.uniform(self.low, self.high)
        # The exponential of a logarithm may miss the end it came from.
        value = min(max(math.exp(source.uniform(math.log(self.low), math.log(self.high))), self.low), self.high)
        return round(value) if self.integer else value


Choices = Annotated[list[Any], Field(min_length=1, max_length=MOST_JOBS)]


class SweepSpace(BaseModel):
    """Which parameters are varied, and how. Every combination of the grid is tried with every random sample."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    grid: dict[str, Choices] = {}
    """Parameter -> the values to try, all of them in every combination."""
    random: dict[str, Range | Choices] = {}
    """Parameter -> what to draw its value from, for each sample anew."""
    samples: int = Field(default=1, ge=1, le=MOST_JOBS)
    """How many times the random parameters are drawn."""
    repeat: int = Field(default=1, ge=1, le=MOST_JOBS)
    """Jobs for each combination; they differ in their seed (types that have one) and in the environment variable
    SAEFORGE_ARRAY_INDEX (containers), counted from 0 over the whole sweep."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Of the random draws."""

    @property
    def varied(self) -> tuple[str, ...]:
        """The parameters that differ between the jobs, in order of their naming."""
        return (*self.grid, *self.random)

    @property
    def size(self) -> int:
        """How many jobs it makes."""
        combinations = math.prod(len(values) for values in self.grid.values())
        return combinations * (self.samples if self.random else 1) * self.repeat


def points(space: SweepSpace, base: dict[str, Any], *, seeded: bool) -> list[dict[str, Any]]:
    """The parameters of each job: the base with the varied ones set, in an order that depends on the space alone.

    Args:
        base: what all of them have in common.
        seeded: the type has a parameter ``seed``, which tells repeated jobs apart.

    Raises:
        InvalidInput: a parameter is varied twice, or the sweep is too large.
    """
    if twice := sorted(space.grid.keys() & space.random.keys()):
        raise InvalidInput(f"random.{twice[0]}: is in the grid, too", field=f"random.{twice[0]}")
    if space.size > MOST_JOBS:
        raise InvalidInput(
            f"grid: the sweep has {space.size} jobs; {MOST_JOBS} are allowed",
            field="grid",
            suggestion="give fewer values, samples or repeats",
        )
    source = random.Random(space.seed)
    samples: list[dict[str, Any]] = [{}]
    if space.random:
        samples = [{name: _drawn(each, source) for name, each in space.random.items()} for _ in range(space.samples)]
    combinations = [dict(zip(space.grid, values, strict=True)) for values in itertools.product(*space.grid.values())]
    return [
        base | combination | sample | _told_apart(base | combination | sample, repeat, seeded=seeded)
        for combination in combinations
        for sample in samples
        for repeat in range(space.repeat)
    ]


def _drawn(values: Range | list[Any], source: random.Random) -> Any:
    return values.draw(source) if isinstance(values, Range) else source.choice(values)


def _told_apart(params: dict[str, Any], repeat: int, *, seeded: bool) -> dict[str, Any]:
    return {"seed": int(params.get("seed", 0)) + repeat} if seeded and repeat else {}
