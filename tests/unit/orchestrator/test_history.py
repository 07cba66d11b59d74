import math

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.history import SAMPLES, STEP_S, History, extremes

floats = st.lists(st.floats(-1e6, 1e6, width=32), max_size=400)


@given(floats, st.integers(4, 60))
def test_thinning_keeps_first_last_lowest_and_highest_in_order_and_never_exceeds(
    values: list[float], most: int
) -> None:
    kept = extremes(values, most)
    assert len(kept) <= most
    assert kept == sorted(set(kept))
    if values:
        assert (kept[0], kept[-1]) == (0, len(values) - 1)
        assert min(values[place] for place in kept) == min(values)
        assert max(values[place] for place in kept) == max(values)


@given(floats, st.integers(4, 60))
def test_a_short_series_is_left_whole(values: list[float], most: int) -> None:
    short = values[:most]
    assert extremes(short, most) == list(range(len(short)))


def test_a_figure_that_was_not_to_be_had_leaves_a_gap() -> None:
    history = History()
    history.add(1.0, {"a": 1.0, "b": None})
    history.add(2.0, {"a": None, "b": 5.0})
    history.add(3.0, {"c": 7.0})
    found = history.traces(0, 100)
    assert {name: trace.times for name, trace in found.items()} == {"a": (1.0,), "b": (2.0,), "c": (3.0,)}
    assert not any(math.isnan(value) for trace in found.values() for value in trace.values)


def test_only_what_came_since_is_told() -> None:
    history = History()
    for ts in range(10):
        history.add(float(ts), {"a": float(ts)})
    assert history.traces(7.0, 100)["a"].values == (7.0, 8.0, 9.0)
    assert history.traces(99.0, 100) == {}


def test_a_day_is_kept_and_what_is_older_is_forgotten_with_figures_that_ceased() -> None:
    history = History()
    history.add(0.0, {"once": 1.0, "always": 0.0})
    for number in range(1, 2 * SAMPLES):
        history.add(number * STEP_S, {"always": float(number)})
    found = history.traces(0, 10)
    assert found.keys() == {"always"}
    assert found["always"].times[-1] - found["always"].times[0] >= 86_400 - STEP_S
    assert found["always"].times[0] > 0


def test_a_spike_of_one_sample_survives_however_little_is_asked_for() -> None:
    history = History()
    for number in range(5000):
        history.add(float(number), {"a": 100.0 if number == 3210 else 1.0})
    trace = history.traces(0, 20)["a"]
    assert len(trace.values) <= 20
    assert trace.times[trace.values.index(100.0)] == 3210
