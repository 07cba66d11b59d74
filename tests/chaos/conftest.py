"""A machine for the orchestrator to die on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path / "home")
    yield made
    made.clear()


@pytest.fixture
def docker_host(tmp_path: Path, engine_image: str) -> Iterator[Host]:
    """One that runs its jobs on the machine's Docker engine."""
    made = Host(tmp_path / "home", executor="docker", worker_image=engine_image, poll_s=0.05)
    yield made
    made.clear()
