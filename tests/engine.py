"""The Docker engine as tests use it: whether it answers, and an image to run."""

import os
import subprocess
from functools import cache
from pathlib import Path

import docker
import docker.errors
import pytest

ROOT = Path(__file__).resolve().parent.parent


@cache
def engine_answers() -> bool:
    try:
        client = docker.from_env(timeout=2)
    except docker.errors.DockerException:
        return False
    client.close()
    return True


def require_engine() -> None:
    """Skip without an engine; in CI there has to be one."""
    if not engine_answers():
        if os.environ.get("CI") == "true":
            pytest.fail("no Docker engine answers, and in CI there has to be one")
        pytest.skip("no Docker engine answers")


@cache
def base_image() -> str:
    """The image that saeforge's own images build on; it has a shell, coreutils and Python."""
    require_engine()
    return subprocess.run(
        [ROOT / "scripts" / "base-image"], check=True, stdout=subprocess.PIPE, text=True, timeout=600
    ).stdout.strip()
