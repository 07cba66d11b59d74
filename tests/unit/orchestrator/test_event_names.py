import pytest

from orchestrator.errors import InvalidInput
from orchestrator.event_names import NAMES, Kind, kinds, name_of


def test_the_names_that_subscribers_know_are_there() -> None:
    wanted = {
        "training:created",
        "training:status_changed",
        "training:progress",
        "training:completed",
        "checkpoint:created",
    }
    assert wanted <= set(NAMES)


@pytest.mark.parametrize(
    ("type", "data", "name"),
    [
        ("job_created", {}, "training:created"),
        ("status_changed", {"from": "queued", "to": "starting"}, "training:status_changed"),
        ("status_changed", {"from": "running", "to": "completed"}, "training:completed"),
        ("status_changed", {"from": "running", "to": "failed"}, "training:status_changed"),
        ("progress", {"done": 3}, "training:progress"),
        ("checkpoint_saved", {"name": "step_1"}, "checkpoint:created"),
        ("command_requested", {}, None),
    ],
)
def test_an_event_has_the_name_that_says_most(type: str, data: dict[str, object], name: str | None) -> None:
    assert name_of(type, data) == name


def test_a_filter_takes_names_and_stored_types_alike() -> None:
    assert kinds(["training:completed", "metrics"]) == (Kind("status_changed", "completed"), Kind("metrics"))


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InvalidInput, match="training:exploded"):
        kinds(["training:exploded"])
