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
