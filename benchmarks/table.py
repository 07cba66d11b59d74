"""What a benchmark prints: where it ran, and its figures."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of all are not above."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def show(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table under its title, with the machine and the moment."""
    print(f"\n### {title}\n\n{setting()}\n")
    print(f"| {' | '.join(headings)} |")
    print(f"|{'|'.join('---' if place == 0 else '---:' for place in range(len(headings)))}|")
    for row in rows:
        print(f"| {' | '.join(_text(value) for value in row)} |")


def setting() -> str:
    """The machine, the moment, and how busy it was already."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {platform.system()} {platform.release()}, {platform.machine()}, "
        f"{cores} cores, Python {platform.python_version()}, load average {load:.1f} at the end"
    )


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return str(value)
