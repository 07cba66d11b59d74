"""Jobs and pipelines that are submitted again and again: when. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Overlap = Literal["skip", "queue"]


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {name!r}; name one like Europe/Berlin") from error
    return name


def _has_a_next(cron: str) -> str:
    try:
        next(CronSim(cron, datetime.now(UTC)))
    except (CronSimError, StopIteration) as error:
        raise ValueError(f"{cron!r} is no cron expression with a next time, e.g. '0 3 * * 1' ({error})") from error
    return cron


class ScheduleSubmission(BaseModel):
    """Body of ``POST /api/schedules``: one job or one pipeline, and when."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = Field(default="schedule", min_length=1, max_length=200)
    owner: str | None = Field(default=None, min_length=1, max_length=100)
    """Who it belongs to, and what it submits; the key's owner, or else "default", when empty."""
    cron: Annotated[str, Field(max_length=200), AfterValidator(_has_a_next)]
    """Minute, hour, day of month, month, day of week, e.g. "0 3 * * 1" for Mondays at three."""
    timezone: Annotated[str, Field(max_length=100), AfterValidator(_known_zone)] = "UTC"
    """In which that is meant, e.g. "Europe/Berlin"."""
    overlap: Overlap = "skip"
    """What to do while what was submitted the last time has not ended: leave this time out, or queue another."""
    kind: Literal["job", "pipeline"] = "job"
    """What is submitted."""
    submission: dict[str, Any]
    """Body of ``POST /api/jobs`` or of ``POST /api/pipelines``."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One that is kept."""

    id: UUID
    name: str
    owner: str
    cron: str
    timezone: str
    overlap: Overlap
    kind: Literal["job", "pipeline"]
    submission: dict[str, Any]
    enabled: bool
    created_at: datetime
    next_at: datetime
    """When it submits next, while it is enabled."""
    last_at: datetime | None = None
    """The time it was last due."""
    made: UUID | None = None
    """The job or pipeline it submitted last."""
    detail: str = ""
    """What came of it the last time it was due."""


def next_time(cron: str, timezone: str, after: datetime) -> datetime:
    """The first time after ``after`` that the expression names. Times missed in between are not made up for."""
    found: datetime = next(CronSim(cron, after.astimezone(ZoneInfo(timezone))))
    return found.astimezone(UTC)
