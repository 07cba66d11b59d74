"""The contract suite's benches."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.benches import Bench, DockerBench, EngineBench, FakeBench, ProcessBench

DOCKER = pytest.param("docker", marks=pytest.mark.docker)


@pytest.fixture(params=["fake", "process", DOCKER])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """Every executor in turn."""
    made = ProcessBench(tmp_path) if request.param == "process" else _engine_bench(request, tmp_path)
    yield made
    await made.close()


@pytest.fixture(params=["fake", DOCKER])
async def engine_bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EngineBench]:
    """Every executor that stands on an engine."""
    made = _engine_bench(request, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def docker_bench(engine_image: str, tmp_path: Path) -> AsyncIterator[DockerBench]:
    made = DockerBench(tmp_path, engine_image)
    yield made
    await made.close()


def _engine_bench(request: pytest.FixtureRequest, home: Path) -> EngineBench:
    return DockerBench(home, request.getfixturevalue("engine_image")) if request.param == "docker" else FakeBench(home)
