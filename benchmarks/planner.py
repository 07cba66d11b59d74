"""How long it takes to decide whose turn it is, with a long queue.

The machine is full, or full but for some cores, so that the planner has to find what still fits. Timed are: one plan;
telling reasons, places and times when somebody asks; bringing the queue up to date after one submit; and reading all of
it after a restart. What is timed is checked: every job either starts or waits, and each has a place of its own.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID, uuid4

from benchmarks.table import show
from orchestrator.board import Board
from orchestrator.domain import Job, JobStatus, Queued, Resources, Shape
from orchestrator.gpus import Gpu, GpuReport
from orchestrator.occupancy import Occupancy
from orchestrator.planner import Held, Lines, Machine, Need, Plan, Queue, Terms, plan
from orchestrator.settings import Settings
from orchestrator.store import Store
from worker_image.contract.jobs import ContainerParams

OWNERS = 10
PRIORITIES = 3
GPUS = 8
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--stored", type=int, nargs="*", default=[10_000], help="queues that are read from a database")
    given = parser.parse_args()
    rows = [_row(jobs, kinds) for jobs in given.jobs for kinds in (1, 20, jobs)]
    headings = ("jobs", "different requests", "plan, machine full ms", "plan, cores left ms", "all waits told ms")
    show("Planning", headings, rows)
    if given.stored:
        with tempfile.TemporaryDirectory(prefix="saeforge-") as folder:
            stored = [asyncio.run(_stored(Path(folder) / str(jobs), jobs)) for jobs in given.stored]
        show("The queue in memory", ("jobs", "after one submit ms", "after a restart ms"), stored)


def _row(jobs: int, kinds: int) -> tuple[object, ...]:
    shapes = [_shape(kind) for kind in range(kinds)]
    lines = Queue(
        Queued(UUID(int=place + 1), f"owner{place % OWNERS}", place % PRIORITIES, float(place), shapes[place % kinds])
        for place in range(jobs)
    ).lines()
    held = [_held(f"GPU-{index}", eta_s=100.0 * index) for index in range(GPUS)]
    full_s, _ = _time(lines, held, cpus=GPUS)
    spare_s, decided = _time(lines, held, cpus=64)
    began = time.perf_counter()
    waits = decided.waits
    places = {waits[job.id].position for job in waits.first(200)}
    told_s = time.perf_counter() - began
    assert len(decided.starts) + len(waits) == jobs
    assert len({start.job.id for start in decided.starts} | set(waits)) == jobs
    assert places == set(range(1, len(places) + 1))
    return jobs, kinds, 1000 * full_s, 1000 * spare_s, 1000 * told_s


def _shape(kind: int) -> Shape:
    """GPUs and cores in every combination; beyond those, what differs is the time limit."""
    timeout_s = None if kind < 20 else 1e6 + kind
    return Shape("container", Resources(gpus=kind % 5, cpus=1 + kind // 5 % 4, timeout_s=timeout_s))


def _held(gpu: str, eta_s: float) -> Held:
    return Held(uuid4(), "owner1", 1.0, gpus=(gpu,), eta_s=eta_s, weight=1.02)


def _time(lines: Lines, held: Sequence[Held], cpus: float) -> tuple[float, Plan]:
    """Median time of a plan, with what was worked out before at hand as it is between two ticks."""
    gpus = tuple(Gpu(f"GPU-{index}", index, "H100", 80_000, 0) for index in range(GPUS))
    machine, known = Machine(cpus=cpus, gpus=gpus), dict[Shape, Need]()
    return _median(lambda: plan(lines, held, Terms(machine, known_needs=known)))


def _median(work: Callable[[], Plan]) -> tuple[float, Plan]:
    took, decided = list[float](), work()
    for _ in range(ROUNDS):
        began = time.perf_counter()
        decided = work()
        took.append(time.perf_counter() - began)
    return median(took), decided


async def _stored(home: Path, jobs: int) -> tuple[object, ...]:
    store = await Store.open(home / "saeforge.db")
    for _ in range(jobs // 500):
        await asyncio.gather(*(store.submit(_job()) for _ in range(500)))
    made: dict[str, Any] = {"store": store, "settings": Settings(home=home), "probe": GpuReport}
    board = Board(**made, occupancy=Occupancy({}))
    began = time.perf_counter()
    await board.refresh()
    restart_s = time.perf_counter() - began
    took = list[float]()
    for _ in range(ROUNDS):
        await store.submit(_job())
        began = time.perf_counter()
        await board.refresh()
        board.queue.lines()
        took.append(time.perf_counter() - began)
    assert len(board.queue) == jobs // 500 * 500 + ROUNDS
    await store.close()
    return len(board.queue), 1000 * median(took), 1000 * restart_s


def _job() -> Job:
    params = ContainerParams(image="busybox", command=["true"])
    return Job(uuid4(), "a job", params, Resources(), JobStatus.QUEUED, datetime.now(UTC))


if __name__ == "__main__":
    main()
