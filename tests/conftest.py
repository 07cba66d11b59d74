"""What every test may use."""

import pytest
from hypothesis import settings

from tests import engine

# A slow machine is no defect of what is tested.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def engine_image() -> str:
    """An image on a real Docker engine; skips where there is none."""
    return engine.base_image()
