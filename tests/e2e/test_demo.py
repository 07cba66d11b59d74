"""``make demo`` as a user meets it, for a few steps: on plain processes and on Docker."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.cli.console import ExitCode
from tests import engine

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20
LIMIT_S = 900


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all runs, so that model and corpus are prepared once."""
    folder = tmp_path_factory.mktemp("demo")
    # Containers run as another user, who has to get through to the run directories.
    for each in (folder, *list(folder.parents)[:2]):
        each.chmod(0o755)
    return folder


def demo(home: Path, executor: str, *flags: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "demo.py", "--once", *flags],
        env={**os.environ, "SAEFORGE_HOME": str(home), "SAEFORGE_EXECUTOR": executor},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left_running(home: Path) -> list[str]:
    """Processes that still work on this home."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        command = " ".join(process.info["cmdline"] or [])
        environment = process.info["environ"] or {}
        if process.pid != os.getpid() and (str(home) in command or environment.get("SAEFORGE_HOME") == str(home)):
            found.append(command)
    return found


@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize("executor", ["process", pytest.param("docker", marks=pytest.mark.docker)])
def test_the_demo_trains_a_real_sae_and_tells_its_figures(home: Path, executor: str) -> None:
    if executor == "docker":
        engine.require_engine()
    with demo(home, executor, "--steps", str(STEPS)) as running:
        said, _ = running.communicate(timeout=LIMIT_S)
    assert running.returncode == ExitCode.OK, said

    figures = json.loads((home / "demo.json").read_text())
    assert (figures["status"], figures["executor"]) == ("completed", executor)
    assert 0 < figures["fvu"] < 1
    assert 0 < figures["l0"] <= 32
    assert 0 <= figures["dead_share"] <= 1
    assert figures["alive_latents"] > 0
    assert figures["wall_s"] > 0
    names = {Path(path).name for path in figures["artifacts"]}
    assert names >= {"sae.safetensors", "cfg.json", "metrics.json"}
    assert all(Path(path).stat().st_size > 0 for path in figures["artifacts"])

    for part in (f"{STEPS}/{STEPS} steps", "loss ", "FVU ", "L0 ", "dead ", "tokens/s", figures["dashboard"]):
        assert part in said
    # Not a terminal: plain lines, no control sequences.
    assert "\x1b" not in said
    assert left_running(home) == []


@pytest.fixture
def taken_ports(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    with socket.create_server(("127.0.0.1", 0)) as api, socket.create_server(("127.0.0.1", 0)) as dashboard:
        ports = api.getsockname()[1], dashboard.getsockname()[1]
        monkeypatch.setenv("SAEFORGE_PORT", str(ports[0]))
        monkeypatch.setenv("SAEFORGE_DASHBOARD_PORT", str(ports[1]))
        yield ports


@pytest.mark.timeout(LIMIT_S + 60)
def test_ctrl_c_while_training_leaves_nothing_running(home: Path, taken_ports: tuple[int, int]) -> None:
    with demo(home, "process") as running:
        assert running.stdout is not None
        said = []
        for line in running.stdout:
            said.append(line)
            if line.startswith("started on"):
                running.send_signal(signal.SIGINT)
        running.wait(LIMIT_S)
    text = "".join(said)
    assert running.returncode == ExitCode.INTERRUPTED, text
    assert "Traceback" not in text
    for port in taken_ports:
        assert f"{port} is taken" in text
    deadline = time.monotonic() + 30
    while left_running(home) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_running(home) == []
