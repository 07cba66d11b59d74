"""Quantities as people read them."""

from datetime import UTC, datetime, timedelta

import pytest

from dashboard import quantities

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (-1, "–"), (8.2, "8 s"), (192, "3 min 12 s"), (3840, "1 h 04 min"), (90_000, "1 d 1 h")],
)
def test_a_duration_has_its_two_largest_units(seconds: float | None, words: str) -> None:
    assert quantities.duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(1, "just now"), (42, "42 s ago"), (125, "2 min ago"), (7300, "2 h ago")]
)
def test_a_moment_is_told_by_how_long_ago_it_was(seconds: int, words: str) -> None:
    assert quantities.ago(NOW - timedelta(seconds=seconds), NOW) == words


@pytest.mark.parametrize(("size_bytes", "words"), [(0, "0 B"), (999, "999 B"), (1200, "1.2 kB"), (265_000, "265 kB")])
def test_a_size_has_a_decimal_unit(size_bytes: int, words: str) -> None:
    assert quantities.size(size_bytes) == words


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("loss", None, "–"),
        ("loss", 0.123456, "0.1235"),
        ("loss", 0.0000123, "1.2e-05"),
        ("dead_share", 0.011, "1.1 %"),
        ("tokens_per_s", 10_700, "10.7k"),
        ("tokens_per_s", 9504.0, "9,504"),
        ("tokens_per_s", 950.4, "950"),
        ("steps_per_s", 0.834, "0.83"),
    ],
)
def test_a_metric_has_the_digits_that_matter(name: str, value: float | None, words: str) -> None:
    assert quantities.measured(name, value) == words
