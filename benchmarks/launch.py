"""How long from a submit to the container running, beyond what the engine takes for the same container by itself.

Both in turns, in one run: the container created and started with the engine's own SDK from the very request that
saeforge makes, and a job submitted over HTTP to an orchestrator that is idle. Running is when the engine says that it
started (``State.StartedAt``). Afterwards every job must have run once and left nothing behind.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker

from benchmarks.table import quantile, show
from orchestrator.client import Client
from orchestrator.domain import JobStatus
from tests.machine import Machine

COMMAND = ["sleep", "600"]
POLL_S = 0.02
PAUSE_S = 0.3
"""Between two submits: the orchestrator is to be found idle, not in the middle of cleaning up."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--image", default="saeforge-base:bookworm", help="any image with a shell")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="saeforge-") as folder:
        measure(Path(folder) / "home", given.rounds, given.image)


def measure(home: Path, rounds: int, image: str) -> None:
    engine = docker.APIClient(version="auto", timeout=60)
    ours: list[float] = []
    bare: list[float] = []
    seen: list[float] = []
    with orchestrator(home) as machine, machine.client() as client:
        first, _, _ = submitted(client, engine, image)
        request = request_of(engine, first)
        end(client, first)
        for _ in range(rounds):
            bare.append(by_hand(engine, request))
            job, started_ms, told_ms = submitted(client, engine, image)
            ours.append(started_ms)
            seen.append(told_ms)
            end(client, job)
            time.sleep(PAUSE_S)
        left = engine.containers(all=True, filters={"label": f"saeforge.home={(home / 'id').read_text().strip()}"})
    assert not left, f"{len(left)} containers were left behind"
    rows = [
        ("create and start with the SDK", *_figures(bare), ""),
        ("submit -> container running", *_figures(ours), f"{quantile(ours, 0.5) / quantile(bare, 0.5):.2f}"),
        ("added by saeforge (difference of the p50)", quantile(ours, 0.5) - quantile(bare, 0.5), "", "", ""),
        ("submit -> the API says running", *_figures(seen), f"{quantile(seen, 0.5) / quantile(bare, 0.5):.2f}"),
    ]
    show(f"From submit to running ({rounds} each, in turns, {image})", ("", "p50 ms", "least", "most", "ratio"), rows)


@contextmanager
def orchestrator(home: Path) -> Iterator[Machine]:
    machine = Machine(home, "docker")
    machine.start()
    try:
        yield machine
    finally:
        machine.leave()


def submitted(client: Client, engine: docker.APIClient, image: str) -> tuple[str, float, float]:
    """Submit a job and wait until it runs: its id, and milliseconds to the start and to being told so."""
    began = time.time()
    job = str(client.submit("container", {"image": image, "command": COMMAND}).id)
    client.wait(job, until=(JobStatus.RUNNING,), timeout_s=60, poll_s=POLL_S)
    told = time.time()
    return job, 1000 * (_started(engine, f"saeforge-{job}-1") - began), 1000 * (told - began)


def end(client: Client, job: str) -> None:
    client.cancel(job)
    client.wait(job, timeout_s=60, poll_s=POLL_S)


def request_of(engine: docker.APIClient, job: str) -> dict[str, Any]:
    """The creation request of the job's container, as the engine keeps it."""
    made = engine.inspect_container(f"saeforge-{job}-1")
    kept = ("Image", "Entrypoint", "Cmd", "Env", "User", "StopSignal", "Healthcheck")
    return {**{name: made["Config"].get(name) for name in kept}, "HostConfig": made["HostConfig"]}


def by_hand(engine: docker.APIClient, request: dict[str, Any]) -> float:
    """Milliseconds to create and start the same container; it is removed again.

    Its program ends at once, because the job whose request it is has taken the claim. By then it has started.
    """
    began = time.time()
    name = f"saeforge-benchmark-{uuid4()}"
    engine.create_container_from_config(request, name)
    try:
        engine.start(name)
        return 1000 * (_started(engine, name) - began)
    finally:
        engine.remove_container(name, force=True)


def _started(engine: docker.APIClient, name: str) -> float:
    # The engine tells nanoseconds, of which Python reads six digits.
    text = engine.inspect_container(name)["State"]["StartedAt"]
    return datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp()


def _figures(values: list[float]) -> tuple[float, float, float]:
    return quantile(values, 0.5), min(values), max(values)


if __name__ == "__main__":
    main()
