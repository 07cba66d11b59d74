"""The orchestrator dies at each step of what it does; the next one goes on as if nothing had been.

The points are read from the source, so that a new one is tried without anybody's thinking of it; a point that the
story below does not reach fails its test.
"""

import re
from pathlib import Path

import pytest

import orchestrator
from tests.chaos.host import Host
from tests.chaos.story import tell, tell_of_an_orphan, tell_of_many_measurements

PACKAGE = Path(orchestrator.__file__).parent
ON_ENGINES_ONLY = frozenset({"container_created"})
"""Points of the Docker executor: ``test_docker_faults.py`` reaches them."""

STORIES = {"orphan_stopped": tell_of_an_orphan, "chunks_written": tell_of_many_measurements}
"""Point -> the story that reaches it, where the usual one does not."""


def points_in(file: Path) -> set[str]:
    return set(re.findall(r'faults\.reach\("(\w+)"\)', file.read_text()))


def points() -> list[str]:
    found = {point for file in PACKAGE.rglob("*.py") for point in points_in(file)}
    return sorted(found - ON_ENGINES_ONLY)


@pytest.mark.parametrize("point", points())
def test_nothing_is_lost_when_the_orchestrator_dies_at(point: str, host: Host) -> None:
    STORIES.get(point, tell)(host, point)
    assert host.deaths == 1, f"{point} was never reached"
