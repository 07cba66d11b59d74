"""What every test may use."""

import pytest

from tests import engine


@pytest.fixture(scope="session")
def engine_image() -> str:
    """An image on a real Docker engine; skips where there is none."""
    return engine.base_image()
