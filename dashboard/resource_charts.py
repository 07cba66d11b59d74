"""What to draw of what a job used of CPU, memory and GPUs."""

from itertools import pairwise
from typing import Any

from orchestrator.views import ResourceHistory

RESOURCE_POINTS = 400
GAP_S = 60.0
"""Two looks at a job further apart have a gap between them, where it did not run or could not be seen."""

_GIB = 1 << 30
RESOURCE_CHARTS: tuple[tuple[str, str, float, tuple[str, ...]], ...] = (
    ("CPU", "cores", 1, ("cpu_cores",)),
    ("Memory", "GiB", 1 / _GIB, ("memory_bytes",)),
    ("GPU busy", "%", 100, ("utilization",)),
    ("GPU memory", "GiB", 1 / _GIB, ("memory_bytes", "job_memory_bytes")),
    ("GPU temperature", "°C", 1, ("temperature_c",)),
    ("GPU power", "W", 1, ("power_w",)),
)
"""Title, unit, factor to it, and the figures drawn: of the container in the first two, of each GPU in the others."""


def resource_charts(history: ResourceHistory) -> list[dict[str, Any]]:
    """What to draw of what a job used: charts with a title, a unit and lines, without those that have none."""
    by_name: dict[str, list[tuple[float, float]]] = {}
    for point in history.items:
        for name, value in point.values.items():
            by_name.setdefault(name, []).append((point.ts.timestamp(), value))
    charts = []
    for title, unit, factor, figures in RESOURCE_CHARTS:
        lines = [
            _line(label, points, factor)
            for name, points in sorted(by_name.items())
            if (label := _label(name, figures, of_gpu=title.startswith("GPU"))) is not None
        ]
        if lines:
            charts.append({"title": title, "unit": unit, "lines": lines})
    return charts


def _label(name: str, figures: tuple[str, ...], *, of_gpu: bool) -> str | None:
    """What to call a line; none when it is of another chart."""
    where, dot, figure = name.rpartition(".")
    if figure not in figures or bool(dot) != of_gpu:
        return None
    return where.replace("gpu", "GPU ") + (", this job" if figure.startswith("job_") else "")


def _line(label: str, points: list[tuple[float, float]], factor: float) -> dict[str, Any]:
    """Times and values, with an empty one in every gap."""
    apart = sorted(later - earlier for (earlier, _), (later, _) in pairwise(points))
    gap_s = max(GAP_S, 4 * apart[len(apart) // 2]) if apart else GAP_S
    times: list[float] = []
    values: list[float | None] = []
    for at, value in points:
        if times and at - times[-1] > gap_s:
            times.append((at + times[-1]) / 2)
            values.append(None)
        times.append(round(at, 1))
        values.append(float(f"{value * factor:.4g}"))
    return {"name": label, "times": times, "values": values}
