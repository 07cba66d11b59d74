"""How fast measurements are taken in and drawn: a million points of one job, and 2,000 of them asked for.

Once as one series of a million steps, once as twenty of fifty thousand. What the store answers is first compared with a
plain computation over all points: the extremes of every bucket, the statistics, the export. Then come the rate of
taking in (events and measurements, durable), the size on disk, and the time of questions, to the store and over HTTP.
"""

import argparse
import asyncio
import http.client
import json
import math
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

from benchmarks.server import Server
from benchmarks.table import quantile, show
from orchestrator.domain import Attempt, EndReason, Job, JobStatus, Resources
from orchestrator.series import bucket_width
from orchestrator.store import Ended, Range, Store
from worker_image.contract.events import Metrics
from worker_image.contract.jobs import ContainerParams

POINTS = 2000
BURST = 10_000
BEGAN = 1_700_000_000.0

Curves = dict[str, list[float]]
"""Name -> value at every step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000, help="of all series together")
    parser.add_argument("--questions", type=int, default=100, help="of each row")
    given = parser.parse_args()
    taken_in: list[tuple[object, ...]] = []
    asked: list[tuple[object, ...]] = []
    for series in (1, 20):
        with tempfile.TemporaryDirectory(prefix="saeforge-") as folder:
            measure(Path(folder), series, given.points // series, given.questions, taken_in, asked)
    show(
        "Taking measurements in",
        ("", "events/s", "points/s", "a burst of 10,000 events, ms", "bytes a point, series", "bytes a point, events"),
        taken_in,
    )
    show(f"Asking for {POINTS:,} points", ("", "p50 ms", "p99 ms", "longest ms", "points answered"), asked)


def measure(
    home: Path,
    series: int,
    steps: int,
    questions: int,
    taken_in: list[tuple[object, ...]],
    asked: list[tuple[object, ...]],
) -> None:
    curves = {f"metric_{number}": curve(number, steps) for number in range(series)}
    title = f"{series} x {steps:,}"
    job_id, rates = asyncio.run(fill(home / "saeforge.db", curves))
    taken_in.append((title, *rates, *sizes(home / "saeforge.db", series * steps)))
    name = next(iter(curves))
    middle = {"start_step": 10 * (steps // 3), "end_step": 10 * (steps // 3) + steps}
    everything: dict[str, object] = {"max_points": POINTS}
    one: dict[str, object] = {"max_points": POINTS, "names": name}
    part: dict[str, object] = {"max_points": POINTS, "names": name, **middle}
    rows: dict[str, dict[str, object]] = {
        "one series, all of it": one,
        "one series, a tenth of it": part,
        **({"all series, all of them": everything} if series > 1 else {}),
    }
    asyncio.run(check(home / "saeforge.db", job_id, curves))
    for row, times, points in asyncio.run(ask_store(home / "saeforge.db", job_id, rows, questions)):
        asked.append((f"{title}: {row}, store", *figures(times), points))
    server = Server(home)
    try:
        for row, times, points in ask_http(server, job_id, rows, questions):
            asked.append((f"{title}: {row}, HTTP", *figures(times), points))
    finally:
        server.kill()


def curve(number: int, steps: int) -> list[float]:
    """A noisy decay with a spike here and there."""
    noise = random.Random(number)
    return [
        math.exp(-step / steps) + noise.gauss(0, 0.01) + (5.0 if noise.random() < 1e-4 else 0.0)
        for step in range(steps)
    ]


async def fill(path: Path, curves: Curves) -> tuple[UUID, tuple[float, float, float]]:
    """Report it all as a worker would; return the job, and events, points and milliseconds for a burst."""
    store = await Store.open(path)
    job = await store.submit(
        Job(
            id=uuid4(),
            name="benchmark",
            params=ContainerParams(image="busybox", command=["true"]),
            resources=Resources(),
            status=JobStatus.QUEUED,
            created_at=datetime.now(UTC),
        )
    )
    attempt = await store.begin_attempt(job, executor="fake", gpus=(), cpus=1)
    steps = len(next(iter(curves.values())))
    spent: list[float] = []
    for begin in range(0, steps, BURST):
        events = [
            Metrics(
                seq=step + 1,
                ts=BEGAN + step / 7,
                step=10 * step,
                values={name: values[step] for name, values in curves.items()},
            )
            for step in range(begin, min(begin + BURST, steps))
        ]
        spent.append(await _in_pieces(store, attempt, events))
    job = await store.job(job.id)
    await store.finish(attempt, Ended(EndReason.COMPLETED, JobStatus.COMPLETED), seen_as=job)
    await store.free(attempt)
    await store.close()
    seconds = sum(spent)
    return job.id, (steps / seconds, steps * len(curves) / seconds, 1000 * statistics.median(spent))


async def _in_pieces(store: Store, attempt: Attempt, events: list[Metrics]) -> float:
    """Store a burst a thousand events at a time, about what is read of a file at once; return the seconds it took."""
    began = time.perf_counter()
    for at in range(0, len(events), 1000):
        await store.append_events(attempt, events[at : at + 1000], events[at].seq)
    return time.perf_counter() - began


def sizes(path: Path, points: int) -> tuple[float, float]:
    """Bytes for a point in the series, and in the events that told of it."""
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        held = dict(file.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name").fetchall())
    file.close()
    series = sum(
        size
        for name, size in held.items()
        if name.startswith(("samples", "series", "chunks", "sqlite_autoindex_chunks"))
    )
    return series / points, sum(size for name, size in held.items() if name.startswith("events")) / points


# --- right


async def check(path: Path, job_id: UUID, curves: Curves) -> None:
    """Fail unless the store answers what a plain computation over all points does."""
    store = await Store.open(path)
    for most in (POINTS, 50):
        found = await store.measurements.series(job_id, "metrics", most=most)
        assert [series.name for series in found] == sorted(curves)
        for series in found:
            values = curves[series.name]
            assert [(point.step // 10, point.value) for point in series.points] == plainly_thinned(values, most)
            assert len(series.points) <= most
            assert (series.stats.count, series.stats.low.value, series.stats.high.value) == (
                len(values),
                min(values),
                max(values),
            )
            assert math.isclose(series.stats.mean, statistics.fmean(values), rel_tol=1e-9)
            assert series.stats.std is not None
            assert math.isclose(series.stats.std, statistics.pstdev(values), rel_tol=1e-6)
    at = 0
    async for page in store.measurements.samples(job_id, "metrics", within=Range()):
        for sample in page:
            assert (sample.step, sample.ts) == (10 * at, BEGAN + at / 7)
            assert sample.values == {name: values[at] for name, values in curves.items()}
            at += 1
    assert at == len(next(iter(curves.values())))
    await store.close()


def plainly_thinned(values: list[float], most: int) -> list[tuple[int, float]]:
    width = bucket_width(0, len(values), most)
    if width == 0:
        return list(enumerate(values))
    kept = {0, len(values) - 1}
    for begin in range(0, len(values), width):
        bucket = range(begin, min(begin + width, len(values)))
        kept |= {min(bucket, key=values.__getitem__), max(bucket, key=values.__getitem__)}
    return [(place, values[place]) for place in sorted(kept)]


# --- fast

Timed = tuple[str, list[float], int]
"""What was asked, the seconds of each question, the points of an answer."""


async def ask_store(path: Path, job_id: UUID, rows: dict[str, dict[str, object]], questions: int) -> list[Timed]:
    store = await Store.open(path)
    timed: list[Timed] = []
    for title, query in rows.items():
        names = [str(query["names"])] if "names" in query else None
        within = Range(int(str(query.get("start_step", 0))), int(str(query.get("end_step", 2**62))))

        async def ask(names: list[str] | None = names, within: Range = within) -> int:
            found = await store.measurements.series(job_id, "metrics", names=names, within=within, most=POINTS)
            return sum(len(series.points) for series in found)

        timed.append((title, *await _timed(ask, questions)))
    await store.close()
    return timed


async def _timed(ask: Callable[[], Awaitable[int]], questions: int) -> tuple[list[float], int]:
    times, points = [], 0
    for _ in range(questions):
        began = time.perf_counter()
        points = await ask()
        times.append(time.perf_counter() - began)
    return times, points


def ask_http(server: Server, job_id: UUID, rows: dict[str, dict[str, object]], questions: int) -> list[Timed]:
    """From the request to the parsed answer, over a connection that stays open."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Authorization": f"Bearer {server.key}"}
    timed: list[Timed] = []
    for title, query in rows.items():
        text = "&".join(f"{name}={value}" for name, value in query.items())
        times, points = [], 0
        for _ in range(questions):
            began = time.perf_counter()
            connection.request("GET", f"/api/jobs/{job_id}/metrics?{text}", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            points = sum(len(item["values"]) for item in json.loads(body)["items"])
            times.append(time.perf_counter() - began)
        timed.append((title, times, points))
    connection.close()
    return timed


def figures(times: list[float]) -> tuple[float, float, float]:
    return tuple(1000 * value for value in (quantile(times, 0.5), quantile(times, 0.99), max(times)))  # type: ignore[return-value]


if __name__ == "__main__":
    main()
