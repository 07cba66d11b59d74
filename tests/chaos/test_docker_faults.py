"""The orchestrator dies at each step of looking after a real container."""

from pathlib import Path

import pytest

from orchestrator import supervisor
from orchestrator.executors import docker
from tests.chaos.host import Host
from tests.chaos.story import tell_of_containers
from tests.chaos.test_fault_points import points_in

pytestmark = pytest.mark.docker

UNSEEN = frozenset({"begun", "run_dir_made", "events_read", "events_stored", "command_read", "command_delivered"})
"""Points between two changes that no engine sees; processes do for those."""
POINTS = sorted((points_in(Path(supervisor.__file__)) | points_in(Path(docker.__file__))) - UNSEEN)


@pytest.mark.parametrize("point", POINTS)
def test_no_container_is_lost_doubled_or_left_when_the_orchestrator_dies_at(
    point: str, docker_host: Host, engine_image: str
) -> None:
    tell_of_containers(docker_host, engine_image, point)
    assert docker_host.deaths == 1, f"{point} was never reached"
