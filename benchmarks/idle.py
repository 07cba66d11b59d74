"""What the orchestrator uses while little is asked of it: processor time and memory, from the kernel's own accounts.

With nothing to do; with running containers; and with those and somebody who watches, as the dashboard does: the
overview asks every other second, and one job's page follows its log and its events. Only the orchestrator's process is
counted: containers and their engine have their own accounts.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.table import show
from orchestrator.client import Client
from orchestrator.domain import Resources
from tests.engine import base_image, engine_answers
from tests.machine import Machine
from tests.waiting import until

SETTLE_S = 5.0
TICK_S = 2.0
"""Between two looks of the dashboard's overview."""
TALK = "while :; do echo step; sleep 1; done"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of each row")
    parser.add_argument("--jobs", type=int, default=5, help="running containers; none without an engine")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="saeforge-") as folder:
        rows = measure(Path(folder) / "home", given.seconds, given.jobs if engine_answers() else 0)
    show(f"Idling ({given.seconds:g} s each)", ("", "% of a core", "RSS MB", "of that its own", "threads"), rows)


def measure(home: Path, seconds: float, jobs: int) -> list[tuple[object, ...]]:
    machine = Machine(home, "docker" if jobs else "process")
    machine.environment["SAEFORGE_CPUS"] = str(max(jobs, 1))
    machine.start()
    assert machine.server is not None
    process = psutil.Process(machine.server.pid)
    rows: list[tuple[object, ...]] = []
    try:
        rows.append(("nothing to do", *use(process, seconds)))
        if jobs:
            with machine.client() as client:
                job = {"image": base_image(), "command": ["sh", "-c", TALK]}
                ids = [client.submit("container", job, resources=Resources(cpus=1)).id for _ in range(jobs)]
                until(lambda: client.jobs(status="running").total == jobs, "all run", timeout_s=120)
                rows.append((f"{jobs} running jobs", *use(process, seconds)))
                with watched(machine, str(ids[0])):
                    rows.append((f"{jobs} running jobs and a viewer", *use(process, seconds)))
                assert client.jobs(status="running").total == jobs, "a job ended"
    finally:
        machine.leave()
    return rows


def use(process: psutil.Process, seconds: float) -> tuple[float, float, float, int]:
    """Share of a core in per cent, resident and private memory in MB (10^6 bytes), and threads."""
    time.sleep(min(SETTLE_S, seconds))
    began, before = time.monotonic(), process.cpu_times()
    time.sleep(seconds)
    after, took_s = process.cpu_times(), time.monotonic() - began
    cpu_s = after.user + after.system - before.user - before.system
    memory = process.memory_full_info()
    return 100 * cpu_s / took_s, memory.rss / 1e6, memory.uss / 1e6, process.num_threads()


@contextmanager
def watched(machine: Machine, job_id: str) -> Iterator[None]:
    """Somebody has the dashboard open."""
    over = threading.Event()

    def overview(client: Client) -> None:
        while not over.wait(TICK_S):
            client.system_status()
            client.jobs(limit=50)

    def follow(client: Client, what: str) -> None:
        frames = client.follow_log(job_id) if what == "log" else client.follow_events(job_id)
        for _ in frames:
            if over.is_set():
                return

    clients = [machine.client() for _ in range(3)]
    threads = [
        threading.Thread(target=overview, args=(clients[0],), daemon=True),
        threading.Thread(target=follow, args=(clients[1], "log"), daemon=True),
        threading.Thread(target=follow, args=(clients[2], "events"), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()


if __name__ == "__main__":
    main()
