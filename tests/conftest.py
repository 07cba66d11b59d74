"""What every test may use."""

import os
import shutil
import signal

import pytest
from hypothesis import settings

from tests import engine

if shutil.which("nvidia-smi") is None:
    # Read when Triton is imported, which other libraries do as well: without a GPU its interpreter runs the kernels.
    os.environ["TRITON_INTERPRET"] = "1"

# A shell that starts tests in the background has them ignore Ctrl-C, and so would every program that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow machine is no defect of what is tested.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def engine_image() -> str:
    """An image on a real Docker engine; skips where there is none."""
    return engine.base_image()
