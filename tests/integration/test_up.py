"""Two orchestrators started at the same instant."""

import subprocess
from contextlib import suppress
from pathlib import Path

from orchestrator.cli.console import ExitCode
from orchestrator.client import Client, Unreachable
from tests.machine import Machine, free_port
from tests.waiting import until


def test_of_two_started_at_once_one_serves_and_the_other_is_refused_in_words(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "home", "process")
    ports = [free_port() for _ in range(2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    both = [machine.spawn("up", "--api-only", "--port", str(port), **pipes) for port in ports]
    try:
        until(lambda: any(one.poll() is not None for one in both), "one of them is refused", timeout_s=60)
        loser, winner = sorted(both, key=lambda one: one.poll() is None)
        said, complained = loser.communicate()
        assert loser.returncode == ExitCode.BAD_INPUT
        assert said == b""
        assert complained.startswith(b"error: another orchestrator runs on")
        assert b"Traceback" not in complained
        with Client(f"http://127.0.0.1:{ports[both.index(winner)]}", "none", retries=0) as client:
            until(lambda: answers(client), "the other one serves", timeout_s=60)
    finally:
        for one in both:
            one.terminate()
            one.communicate()


def answers(client: Client) -> bool:
    with suppress(Unreachable):
        return client.health().status == "ok"
    return False
