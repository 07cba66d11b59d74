"""A figure's course as a row of thin bars, in plain HTML: Streamlit lets no SVG through. Pure.

Each bar reaches from the lowest to the highest value of its span of time, so that no spike is lost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from orchestrator.views import TraceView

BARS = 90
LEAST_HEIGHT = 2.5
"""Percent: a steady value has to be seen too."""


@dataclass(frozen=True, slots=True)
class Span:
    """What a figure was within a span of time."""

    low: float
    high: float


def spans(trace: TraceView, begin: float, end: float, count: int = BARS) -> list[Span | None]:
    """The course from ``begin`` to ``end`` (seconds since the epoch) in equally long spans; none where there is a gap
    that is longer than a span."""
    found: list[Span | None] = [None] * count
    length = (end - begin) / count
    before: tuple[int, float] | None = None
    for ts, value in zip(trace.times, trace.values, strict=True):
        if not begin <= ts <= end:
            continue
        place = min(count - 1, int((ts - begin) / length))
        span = found[place]
        found[place] = Span(value, value) if span is None else Span(min(span.low, value), max(span.high, value))
        if before is not None and place - before[0] == 2 and found[place - 1] is None:
            # Thinned points do not fall into every span.
            found[place - 1] = Span(min(before[1], value), max(before[1], value))
        before = place, value
    return found


def sparkline(
    label: str,
    trace: TraceView | None,
    *,
    begin: float,
    end: float,
    most: float | None = None,
    told: Callable[[float], str],
) -> str:
    """One figure: its name, its last value and range, and its bars from 0 to ``most`` (its own highest when empty)."""
    if trace is None or not trace.values:
        return ""
    low, high, last = min(trace.values), max(trace.values), trace.values[-1]
    top = most or high or 1.0
    said = f"{told(low)} to {told(high)}" if low != high else told(low)
    head = f"<span>{escape(label)}</span><span>{escape(said)}</span><b>{escape(told(last))}</b>"
    return (
        f'<div class="sf-spark"><div>{head}</div>'
        f'<div class="sf-bars" role="img" aria-label="{escape(label)}: {escape(said)}, now {escape(told(last))}">'
        f"{_bars(spans(trace, begin, end), top)}</div></div>"
    )


def _bars(course: Sequence[Span | None], top: float) -> str:
    def bar(span: Span | None) -> str:
        if span is None:
            return "<i></i>"
        bottom = _percent(span.low, top)
        height = max(LEAST_HEIGHT, _percent(span.high, top) - bottom)
        return f'<i style="height:{height:.1f}%;bottom:{min(bottom, 100 - height):.1f}%"></i>'

    return "".join(map(bar, course))


def _percent(value: float, top: float) -> float:
    return min(100.0, max(0.0, 100 * value / top))
