"""Time series: points by step, what is known of many of them at once, and which of them to show.

A series is kept in chunks of ``CHUNK_POINTS``, each with its statistics, so that a long one is thinned and summarised
without looking at every point. What comes out depends on the points alone, never on how they are cut into pieces.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

CHUNK_POINTS: Final = 1024
"""Points of a full chunk; a power of two, so that chunks never straddle the buckets that they are thinned into."""


class Point(NamedTuple):
    """One measurement."""

    step: int
    """Place in the series: an optimiser step or, for what is measured over time, milliseconds since the epoch."""
    ts: float
    """When, in seconds since the epoch."""
    value: float


@dataclass(frozen=True, slots=True)
class Stats:
    """What is known of consecutive points without looking at each."""

    count: int
    first: Point
    last: Point
    low: Point
    """The earliest of the lowest."""
    high: Point
    """The earliest of the highest."""
    mean: float
    m2: float
    """Sum of the squared distances from the mean; infinite where a float cannot hold it."""

    @property
    def std(self) -> float | None:
        """Standard deviation of the population; none where a float cannot hold it."""
        deviation = math.sqrt(self.m2 / self.count)
        return deviation if math.isfinite(deviation) else None

    def joined(self, later: "Stats") -> "Stats":
        """Of these points and later ones together (Chan, Golub and LeVeque, 1979)."""
        count = self.count + later.count
        share = later.count / count
        # Not mean + distance * share: the distance of two large means may be more than a float holds.
        distance = later.mean - self.mean
        return Stats(
            count=count,
            first=self.first,
            last=later.last,
            low=later.low if later.low.value < self.low.value else self.low,
            high=later.high if later.high.value > self.high.value else self.high,
            mean=self.mean * (1 - share) + later.mean * share,
            m2=self.m2 + later.m2 + distance * distance * self.count * share,
        )


@dataclass(frozen=True, slots=True)
class Columns:
    """Points in order of their steps, column by column."""

    steps: "array[int] | range"
    """A range where they are evenly spaced, as they mostly are: then they need not be made one by one."""
    times: "array[float]"
    values: "array[float]"

    @classmethod
    def of(cls, points: Iterable[Point]) -> "Columns":
        steps, times, values = array("q"), array("d"), array("d")
        for step, ts, value in points:
            steps.append(step)
            times.append(ts)
            values.append(value)
        return cls(steps, times, values)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Point]:
        return map(Point, self.steps, self.times, self.values)

    def __getitem__(self, place: int) -> Point:
        return Point(self.steps[place], self.times[place], self.values[place])

    def part(self, begin: int, end: int) -> "Columns":
        return Columns(self.steps[begin:end], self.times[begin:end], self.values[begin:end])

    def between(self, start: int, end: int) -> "Columns":
        """Those with a step in [start, end]."""
        return Columns.of(point for point in self if start <= point.step <= end)

    def updated(self, newer: "Columns") -> "Columns":
        """These points and the newer ones, which replace those of the same step."""
        if not self or not newer or self.steps[-1] < newer.steps[0]:
            return Columns(
                array("q", [*self.steps, *newer.steps]), self.times + newer.times, self.values + newer.values
            )
        by_step = {point.step: point for point in (*self, *newer)}
        return Columns.of(by_step[step] for step in sorted(by_step))

    def stats(self) -> Stats:
        """Of all of them; there must be one."""
        count = len(self)
        low, high = extremes(self.values, 0, count)
        # By halves, for the sum of the largest values there are must not overflow on its way.
        mean = 2 * math.fsum(value / 2 / count for value in self.values)
        mean = max(self.values[low], min(self.values[high], mean))
        m2 = sum((value - mean) * (value - mean) for value in self.values)
        return Stats(count, self[0], self[-1], self[low], self[high], mean, m2)


def extremes(values: Sequence[float], begin: int, end: int) -> tuple[int, int]:
    """Places of the earliest lowest and the earliest highest value in [begin, end)."""
    part = values[begin:end]
    return begin + part.index(min(part)), begin + part.index(max(part))


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive points of a series. A whole chunk may come with its statistics alone."""

    begin: int
    """Points of the series before it."""
    stats: Stats
    columns: Columns | None = None

    @classmethod
    def of(cls, begin: int, columns: Columns) -> "Piece":
        return cls(begin, columns.stats(), columns)


def bucket_width(begin: int, end: int, most: int) -> int:
    """How many points share a bucket so that [begin, end) gives at most ``most`` points; 0 when all of them do.

    A power of two, counted from the begin of the series: buckets stay what they are while a series grows.
    """
    if end - begin <= most:
        return 0
    width = 1
    buckets = (most - 2) // 2
    while buckets and (end - 1) // width - begin // width + 1 > buckets:
        width *= 2
    return width if buckets else CHUNK_POINTS


def thinned(pieces: Sequence[Piece], most: int) -> list[Point]:
    """At most ``most`` points (at least 2) of a series: the first, the last, and the lowest and the highest of each
    bucket, so that every spike survives. With fewer than 4, only the first and the last.

    Pieces follow each other without a gap. They need their columns where a bucket is smaller than a chunk.
    """
    if not pieces:
        return []
    width = bucket_width(pieces[0].begin, pieces[-1].begin + pieces[-1].stats.count, most)
    if width == 0:
        return [point for piece in pieces for point in _columns(piece)]
    first, last = pieces[0].stats.first, pieces[-1].stats.last
    kept = {first.step: first, last.step: last}
    if most >= 4:
        for low, high in _bucket_extremes(pieces, width):
            kept[low.step], kept[high.step] = low, high
    return [kept[step] for step in sorted(kept)]


def _bucket_extremes(pieces: Sequence[Piece], width: int) -> Iterator[tuple[Point, Point]]:
    """The lowest and the highest point of every bucket."""
    bucket = -1
    low = high = pieces[0].stats.first
    for number, lower, higher in _part_extremes(pieces, width):
        if number != bucket:
            if bucket >= 0:
                yield low, high
            bucket, low, high = number, lower, higher
        else:
            low = lower if lower.value < low.value else low
            high = higher if higher.value > high.value else high
    yield low, high


def _part_extremes(pieces: Sequence[Piece], width: int) -> Iterator[tuple[int, Point, Point]]:
    """The number of a bucket with the extremes of a part of it, in order."""
    for piece in pieces:
        end = piece.begin + piece.stats.count
        if piece.begin // width == (end - 1) // width:
            yield piece.begin // width, piece.stats.low, piece.stats.high
            continue
        columns = _columns(piece)
        values = columns.values.tolist()  # each value made once, and not at every comparison
        begin = piece.begin
        while begin < end:
            stop = min((begin // width + 1) * width, end)
            low, high = extremes(values, begin - piece.begin, stop - piece.begin)
            yield begin // width, columns[low], columns[high]
            begin = stop


def _columns(piece: Piece) -> Columns:
    assert piece.columns is not None, "a piece that is looked into comes with its columns"
    return piece.columns


def chunks(begin: int, columns: Columns) -> Iterator[Piece]:
    """The points cut where chunks end, when ``begin`` points of the series come before them."""
    cut = 0
    while cut < len(columns):
        stop = cut + CHUNK_POINTS - (begin + cut) % CHUNK_POINTS
        yield Piece.of(begin + cut, columns.part(cut, stop))
        cut = stop
