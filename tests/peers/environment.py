"""Running a program where the other libraries are installed: ``scripts/peers`` makes that place."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".peers" / "bin" / "python"
PROGRAMS = Path(__file__).parent / "programs"


def run_program(name: str, *arguments: str | Path) -> None:
    """Run ``programs/<name>.py`` among the other libraries; skips where they are not installed.

    It is given nothing of ours to import, so that what it says is theirs.
    """
    if not PYTHON.exists():
        if os.environ.get("CI") == "true":
            pytest.fail("the other libraries are not installed: scripts/peers")
        pytest.skip("the other libraries are not installed: run scripts/peers")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    environment |= {"SPARSIFY_DISABLE_TRITON": "1"}  # its kernels work in float32, and on a GPU
    command = [str(PYTHON), "-W", "ignore", str(PROGRAMS / f"{name}.py"), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
