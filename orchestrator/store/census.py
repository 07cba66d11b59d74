"""Counts over all jobs and attempts, for those who watch the whole."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.access import Principal
from orchestrator.domain import JobStatus
from orchestrator.store.database import Session

HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Census:
    """The queue and what runs, at a moment."""

    by_status: Mapping[JobStatus, int]
    oldest_queued_at: float | None
    """When the job that has waited longest was submitted, in seconds since the epoch."""
    running_attempts: int
    begun_last_hour: int
    """Attempts."""
    ended_last_hour: int


@dataclass(frozen=True, slots=True)
class Tallies:
    """What has happened since the database was made. None of it ever shrinks, not even when jobs are purged."""

    jobs_submitted: Mapping[str, int]
    """By job type."""
    jobs_ended: Mapping[str, int]
    """By terminal status."""
    attempts_begun: Mapping[str, int]
    """By executor."""
    attempts_ended: Mapping[str, int]
    """By end reason."""
    attempt_seconds: float
    """How long all ended attempts ran together."""
    attempts_by_duration: tuple[tuple[float, int], ...]
    """Seconds, and how many attempts lasted at most that long; the last one counts all of them."""
    events: int


def take_census(session: Session, *, now: float) -> Census:
    counts = dict.fromkeys(JobStatus, 0) | {
        JobStatus(row["status"]): row["n"] for row in session.all("count_by_status")
    }

    def count(statement: str, **values: object) -> int:
        row = session.one(statement, **values)
        return int(row["n"]) if row else 0

    oldest = session.one("oldest_queued")
    return Census(
        by_status=counts,
        oldest_queued_at=oldest["since"] if oldest else None,
        running_attempts=count("count_running_attempts"),
        begun_last_hour=count("attempts_begun_since", since=now - HOUR_S),
        ended_last_hour=count("attempts_ended_since", since=now - HOUR_S),
    )


def take_census_within(session: Session, who: Principal, *, now: float) -> Census:
    """Of the jobs within somebody's reach only."""
    within: dict[str, object] = {"owner": who.owner, "types": json.dumps(who.types)}
    found = {JobStatus(row["status"]): row for row in session.all("jobs_within", **within)}
    attempts = session.one("attempts_within", since=now - HOUR_S, **within)
    assert attempts is not None
    return Census(
        by_status=dict.fromkeys(JobStatus, 0) | {status: row["n"] for status, row in found.items()},
        oldest_queued_at=found[JobStatus.QUEUED]["since"] if JobStatus.QUEUED in found else None,
        running_attempts=attempts["running"],
        begun_last_hour=attempts["begun"],
        ended_last_hour=attempts["ended"],
    )


def read_tallies(session: Session) -> Tallies:
    held: dict[str, dict[str, float]] = {}
    for row in session.all("tallies"):
        held.setdefault(row["name"], {})[row["label"]] = row["value"]

    def counted(name: str) -> dict[str, int]:
        return {label: int(value) for label, value in held.get(name, {}).items()}

    events = session.one("events_ever")
    return Tallies(
        jobs_submitted=counted("jobs_submitted"),
        jobs_ended=counted("jobs_ended"),
        attempts_begun=counted("attempts_begun"),
        attempts_ended=counted("attempts_ended"),
        attempt_seconds=held.get("attempt_seconds", {}).get("", 0.0),
        attempts_by_duration=tuple((row["le"], row["attempts"]) for row in session.all("attempt_durations")),
        events=events["seq"] if events else 0,
    )
