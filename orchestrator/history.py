"""What the machine looked like over the last day, in memory: a restart begins it anew."""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

STEP_S: Final = 10.0
"""Seconds between two samples."""
SAMPLES: Final = 8640
"""A day of them."""
_SLACK: Final = SAMPLES // 10
"""How many more are kept before the oldest are let go, which moves all the others."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One figure over time."""

    times: tuple[float, ...]
    """Seconds since the epoch."""
    values: tuple[float, ...]


class History:
    """Columns of samples, one column a figure, with gaps where a figure was not to be had."""

    def __init__(self) -> None:
        self._times = array("d")
        self._columns: dict[str, array[float]] = {}

    def add(self, ts: float, figures: Mapping[str, float | None]) -> None:
        """Keep a sample taken ``ts`` seconds after the epoch."""
        for name in figures.keys() - self._columns.keys():
            self._columns[name] = array("f", [math.nan]) * len(self._times)
        self._times.append(ts)
        for name, column in self._columns.items():
            value = figures.get(name)
            column.append(math.nan if value is None else value)
        if len(self._times) > SAMPLES + _SLACK:
            self._forget()

    def _forget(self) -> None:
        del self._times[:-SAMPLES]
        for name, column in list(self._columns.items()):
            del column[:-SAMPLES]
            # A GPU that has been away for a day, say.
            if all(math.isnan(value) for value in column):
                del self._columns[name]

    def traces(self, since: float, most: int) -> dict[str, Trace]:
        """Every figure from ``since`` on, in at most ``most`` points (at least 4) each that keep its extremes."""
        start = next((place for place, ts in enumerate(self._times) if ts >= since), len(self._times))
        found: dict[str, Trace] = {}
        for name, column in self._columns.items():
            given = [place for place in range(start, len(column)) if not math.isnan(column[place])]
            kept = [given[place] for place in extremes([column[place] for place in given], most)]
            if kept:
                found[name] = Trace(tuple(self._times[at] for at in kept), tuple(column[at] for at in kept))
        return found


def extremes(values: Sequence[float], most: int) -> list[int]:
    """Places of at most ``most`` of the values (at least 4): the first, the last, and of each of equally long spans
    between them the lowest and the highest, so that no spike is lost."""
    if len(values) <= most:
        return list(range(len(values)))
    spans = (most - 2) // 2
    bounds = [1 + number * (len(values) - 2) // spans for number in range(spans + 1)]
    kept = {0, len(values) - 1}
    for begin, end in pairwise(bounds):
        places = range(begin, end)
        kept |= {min(places, key=values.__getitem__), max(places, key=values.__getitem__)}
    return sorted(kept)
