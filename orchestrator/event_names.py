"""The public names of events: what a subscriber to a training may ask for, whatever they are called in the store."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Kind:
    """Events of one stored type; with ``to``, only those that tell of this status."""

    type: str
    to: str | None = None


NAMES: Mapping[str, Kind] = {
    "training:created": Kind("job_created"),
    "training:completed": Kind("status_changed", to="completed"),
    "training:status_changed": Kind("status_changed"),
    "training:progress": Kind("progress"),
    "training:metrics": Kind("metrics"),
    "checkpoint:created": Kind("checkpoint_saved"),
}
"""Public name -> what it stands for. Of two that fit an event the first is its name; a filter by either finds it."""


def name_of(type: str, data: Mapping[str, object]) -> str | None:
    """The public name of an event, if it has one."""
    for name, kind in NAMES.items():
        if kind.type == type and kind.to in (None, data.get("to")):
            return name
    return None


def kinds(wanted: Iterable[str]) -> tuple[Kind, ...]:
    """What a filter by public names and stored types lets through. Raises: InvalidInput."""
    found = []
    for word in wanted:
        if ":" in word and word not in NAMES:
            raise InvalidInput(
                f"types: {word!r} is no event", field="types", suggestion=f"use {', '.join(NAMES)} or a stored type"
            )
        found.append(NAMES.get(word) or Kind(word))
    return tuple(found)
