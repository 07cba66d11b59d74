"""A course as bars: nothing hidden, nothing made up."""

import re

from hypothesis import given
from hypothesis import strategies as st

from dashboard.sparkline import BARS, Span, spans, sparkline
from orchestrator.views import TraceView


def trace(*points: tuple[float, float]) -> TraceView:
    return TraceView(times=[ts for ts, _ in points], values=[value for _, value in points])


@given(st.lists(st.tuples(st.floats(0, 900), st.floats(0, 1e6)), min_size=1, max_size=300))
def test_the_lowest_and_the_highest_are_in_the_bars(points: list[tuple[float, float]]) -> None:
    course = [span for span in spans(trace(*sorted(points)), 0, 900) if span]
    assert min(span.low for span in course) == min(value for _, value in points)
    assert max(span.high for span in course) == max(value for _, value in points)


def test_a_gap_stays_one_and_a_thinned_place_does_not() -> None:
    assert spans(trace((5, 1.0), (25, 3.0), (85, 2.0)), 0, 90, count=9) == [
        Span(1, 1), Span(1, 3), Span(3, 3), None, None, None, None, None, Span(2, 2),
    ]  # fmt: skip


def test_what_is_out_of_the_time_shown_is_left_out() -> None:
    assert [span for span in spans(trace((-5, 9.0), (5, 1.0), (200, 9.0)), 0, 100) if span] == [Span(1, 1)]


def test_it_is_told_in_words_too() -> None:
    html = sparkline("CPU", trace((1, 3.0), (2, 97.0), (3, 12.0)), begin=0, end=90, most=100, told="{:.0f} %".format)
    assert 'aria-label="CPU: 3 % to 97 %, now 12 %"' in html
    assert html.count("<i") == BARS


def test_no_bar_leaves_its_frame() -> None:
    html = sparkline("x", trace((1, 0.0), (2, 500.0), (3, 100.0)), begin=0, end=90, most=100, told=str)
    for height, below in re.findall(r"height:([\d.]+)%;bottom:([\d.]+)%", html):
        assert float(height) + float(below) <= 100


def test_without_a_figure_there_is_nothing() -> None:
    assert sparkline("x", None, begin=0, end=1, told=str) == ""
    assert sparkline("x", trace(), begin=0, end=1, told=str) == ""


def test_its_name_is_escaped() -> None:
    assert "<b>x" not in sparkline("<b>x", trace((1, 1.0)), begin=0, end=90, told=str)
