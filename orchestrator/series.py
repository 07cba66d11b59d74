"""Thinning a time series without losing its extremes."""

from collections.abc import Sequence
from datetime import datetime

Point = tuple[int, datetime, dict[str, float]]
"""Step, time, values."""


def thinned(points: Sequence[Point], most: int, *, metric: str = "loss") -> list[Point]:
    """At most ``most`` of the points (at least 2): the first, the last, and the lowest and highest of ``metric`` in
    each of equally many buckets between them, so that a spike survives."""
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    buckets = max((most - 2) // 2, 0)
    kept: list[Point] = [points[0]]
    for number in range(buckets):
        bucket = inner[number * len(inner) // buckets : (number + 1) * len(inner) // buckets]
        low = min(bucket, key=lambda point: point[2].get(metric, 0.0))
        high = max(bucket, key=lambda point: point[2].get(metric, 0.0))
        kept.extend(sorted({low[0]: low, high[0]: high}.values(), key=lambda point: point[0]))
    kept.append(points[-1])
    return kept
