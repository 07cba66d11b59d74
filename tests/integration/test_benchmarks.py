"""Each benchmark runs, finds right what it timed, and prints its table. Figures are for a quiet machine."""

import os
import subprocess
import sys

import pytest

RUNS = {
    "checkpoint": ("--parameters", "100000"),
    "idle": ("--seconds", "0.2", "--jobs", "0"),
    "planner": ("--jobs", "300", "--stored", "500"),
    "logs": ("--no-engine", "--lines", "5", "--burst-s", "0.1", "--jobs", "3", "--viewers-each", "2", "--rounds", "1"),
    "metrics": ("--points", "6000", "--questions", "2"),
    "reattach": ("--attempts", "20", "--containers", "0"),
    "submit": ("--requests", "20", "--connections", "2", "--per-second", "200"),
}
ON_DOCKER = {
    "idle": ("--seconds", "0.2", "--jobs", "1"),
    "launch": ("--rounds", "1", "--image"),
    "reattach": ("--attempts", "1", "--containers", "2"),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_benchmark_runs_and_finds_right_what_it_timed(name: str) -> None:
    run(name, *RUNS[name])


@pytest.mark.docker
@pytest.mark.parametrize("name", ON_DOCKER)
def test_the_benchmark_runs_on_docker_and_finds_right_what_it_timed(name: str, engine_image: str) -> None:
    words = ON_DOCKER[name]
    run(name, *words, *([engine_image] if words[-1] == "--image" else []))


def run(name: str, *words: str) -> None:
    program = [sys.executable, "-m", f"benchmarks.{name}", *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=200, env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr
    assert "|---|" in done.stdout
