"""Thinning and statistics against what is plain: every point looked at, one by one."""

import math
import statistics
from collections.abc import Sequence
from functools import reduce
from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.series import CHUNK_POINTS, Columns, Piece, Point, Stats, bucket_width, chunks, thinned

finite = st.floats(allow_nan=False, allow_infinity=False)
moderate = st.floats(-1e9, 1e9)


def series_of(values: Sequence[float]) -> list[Point]:
    return [Point(3 * place, 0.5 * place, value) for place, value in enumerate(values)]


def plainly_thinned(points: Sequence[Point], most: int, begin: int = 0) -> list[Point]:
    """The definition: the first, the last, and of each bucket the earliest lowest and the earliest highest."""
    width = bucket_width(begin, begin + len(points), most)
    if not width or most < 4:
        return list(points) if not width else list(dict.fromkeys([points[0], points[-1]]))
    kept = {points[0], points[-1]}
    for _, bucket in groupby(enumerate(points, begin), key=lambda item: item[0] // width):
        in_bucket = [point for _, point in bucket]
        kept |= {min(in_bucket, key=lambda point: point.value), max(in_bucket, key=lambda point: point.value)}
    return sorted(kept)


@st.composite
def cut_series(draw: st.DrawFn) -> tuple[list[Point], list[Piece]]:
    """A series with anywhere in it the begin of its first piece, and cuts wherever they may be."""
    values = draw(st.lists(st.sampled_from([0.0, 1.0, -1.0]) | finite, min_size=1, max_size=300))
    begin = draw(st.integers(0, 100))
    points = series_of(values)
    cuts = sorted({0, len(points), *draw(st.lists(st.integers(0, len(points)), max_size=8))})
    pieces = [Piece.of(begin + low, Columns.of(points[low:high])) for low, high in pairwise(cuts)]
    return points, pieces


@given(cut_series(), st.integers(2, 350))
def test_thinning_is_what_the_definition_says_however_the_series_is_cut(
    cut: tuple[list[Point], list[Piece]], most: int
) -> None:
    points, pieces = cut
    assert thinned(pieces, most) == plainly_thinned(points, most, pieces[0].begin)


@given(cut_series(), st.integers(4, 350))
def test_thinning_keeps_the_ends_the_extremes_the_order_and_the_bound(
    cut: tuple[list[Point], list[Piece]], most: int
) -> None:
    points, pieces = cut
    kept = thinned(pieces, most)
    values = [point.value for point in points]
    assert len(kept) <= most
    assert [kept[0], kept[-1]] == [points[0], points[-1]]
    assert {min(values), max(values)} <= {point.value for point in kept}
    assert kept == sorted(set(kept))


@given(st.integers(0, 5000), st.integers(5, 5000), st.integers(4, 500))
def test_buckets_are_no_wider_than_the_bound_demands(begin: int, count: int, most: int) -> None:
    width = bucket_width(begin, begin + count, most)
    if width > 1:
        buckets_of_half = (begin + count - 1) // (width // 2) - begin // (width // 2) + 1
        assert buckets_of_half > (most - 2) // 2


def test_buckets_stay_what_they_are_while_a_series_grows() -> None:
    points = series_of([math.sin(place) for place in range(5000)])
    short = thinned([Piece.of(0, Columns.of(points[:4500]))], 1000)
    grown = thinned([Piece.of(0, Columns.of(points))], 1000)
    assert set(short[:-3]) <= set(grown)


def test_a_long_series_is_thinned_by_the_statistics_of_its_chunks_alone() -> None:
    points = series_of([math.sin(place / 50) for place in range(20 * CHUNK_POINTS + 7)])
    pieces = list(chunks(0, Columns.of(points)))
    bare = [Piece(piece.begin, piece.stats) for piece in pieces]
    assert thinned(bare, 20) == plainly_thinned(points, 20)


@given(st.integers(0, 3000), st.integers(0, 5000))
def test_chunks_end_where_they_must_and_lose_nothing(begin: int, count: int) -> None:
    columns = Columns.of(series_of([float(place) for place in range(count)]))
    made = list(chunks(begin, columns))
    assert [point for piece in made for point in piece.columns or ()] == list(columns)
    assert all(piece.begin % CHUNK_POINTS == 0 for piece in made[1:])
    assert all(piece.stats.count <= CHUNK_POINTS - piece.begin % CHUNK_POINTS for piece in made)


@given(st.lists(st.lists(moderate, min_size=1, max_size=50), min_size=1, max_size=8))
def test_joined_statistics_are_those_of_all_points_together(parts: list[list[float]]) -> None:
    points = series_of([value for part in parts for value in part])
    ends = [sum(map(len, parts[: number + 1])) for number in range(len(parts))]
    pieces = [Columns.of(points[end - len(part) : end]).stats() for part, end in zip(parts, ends, strict=True)]
    joined = reduce(Stats.joined, pieces)
    values = [point.value for point in points]
    scale = max(map(abs, values))
    assert (joined.count, joined.first, joined.last) == (len(points), points[0], points[-1])
    assert joined.low == min(points, key=lambda point: point.value)
    assert joined.high == max(points, key=lambda point: point.value)
    assert joined.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-9 * scale)
    # Squares of what is smaller than the second tolerance are nothing at all.
    assert joined.std == pytest.approx(statistics.pstdev(values), rel=1e-6, abs=max(1e-7 * scale, 1e-150))


@given(st.lists(finite, min_size=1, max_size=20), st.lists(finite, min_size=1, max_size=20))
def test_no_value_is_too_large_for_statistics(earlier: list[float], later: list[float]) -> None:
    joined = Columns.of(series_of(earlier)).stats().joined(Columns.of(series_of(later)).stats())
    assert math.isfinite(joined.mean)
    assert joined.std is None or joined.std >= 0


@given(st.dictionaries(st.integers(0, 50), finite), st.dictionaries(st.integers(0, 50), finite))
def test_newer_points_replace_those_of_the_same_step(older: dict[int, float], newer: dict[int, float]) -> None:
    def columns(values: dict[int, float]) -> Columns:
        return Columns.of(Point(step, 0, values[step]) for step in sorted(values))

    assert list(columns(older).updated(columns(newer))) == list(columns({**older, **newer}))
