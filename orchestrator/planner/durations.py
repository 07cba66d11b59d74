"""How long jobs like this one ran."""

from collections.abc import Iterable
from statistics import median

from orchestrator.planner.terms import Expected


def medians(ran: Iterable[tuple[str, str, float]]) -> Expected:
    """The median of (type, owner, seconds), for each owner of each type, and for each type as a whole."""
    found: dict[tuple[str, str], list[float]] = {}
    for job_type, owner, seconds in ran:
        for key in {(job_type, owner), (job_type, "")}:
            found.setdefault(key, []).append(seconds)
    return {key: median(values) for key, values in found.items()}
