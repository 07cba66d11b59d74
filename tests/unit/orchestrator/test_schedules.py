from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from orchestrator.schedules import ScheduleSubmission, next_time


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_the_next_time_is_told_in_utc() -> None:
    assert next_time("0 3 * * 1", "UTC", at("2026-11-22 10:00")) == at("2026-11-23 03:00")
    assert next_time("0 3 * * 1", "Europe/Berlin", at("2026-11-22 10:00")) == at("2026-11-23 02:00")


def test_a_time_is_never_its_own_next() -> None:
    assert next_time("0 3 * * *", "UTC", at("2026-11-23 03:00")) == at("2026-11-24 03:00")


@pytest.mark.parametrize(
    ("field", "value"), [("cron", "every day"), ("cron", "0 0 31 2 *"), ("timezone", "Europe/Atlantis")]
)
def test_what_names_no_time_is_refused_by_name(field: str, value: str) -> None:
    given = {"cron": "0 3 * * *", "submission": {}} | {field: value}
    with pytest.raises(ValidationError) as refused:
        ScheduleSubmission.model_validate(given)
    assert refused.value.errors()[0]["loc"] == (field,)
