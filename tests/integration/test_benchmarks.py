"""Each benchmark runs, finds right what it timed, and prints its table. Figures are for a quiet machine."""

import os
import subprocess
import sys

import pytest

RUNS = {
    "logs": ("--no-engine", "--lines", "5", "--burst-s", "0.1", "--jobs", "3", "--viewers-each", "2", "--rounds", "1"),
    "metrics": ("--points", "6000", "--questions", "2"),
    "submit": ("--requests", "20", "--connections", "2", "--per-second", "200"),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_benchmark_runs_and_finds_right_what_it_timed(name: str) -> None:
    program = [sys.executable, "-m", f"benchmarks.{name}", *RUNS[name]]
    done = subprocess.run(program, capture_output=True, text=True, timeout=200, env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr
    assert "|---|" in done.stdout
