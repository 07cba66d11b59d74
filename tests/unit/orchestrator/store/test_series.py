"""What jobs measured, kept and asked for: against a plain dictionary, with chunks small enough to be many."""

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import orchestrator.series
import orchestrator.store.series
import orchestrator.store.store
from orchestrator.domain import Attempt, EndReason, Job, JobStatus
from orchestrator.series import Columns, Piece, Point, thinned
from orchestrator.store import MAX_STEP, Ended, Range, Sample, Store
from orchestrator.store.statements import migrations
from tests.unit.orchestrator.jobs import training_job
from worker_image.contract.events import Metrics

SMALL = 8
finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture(autouse=True)
def small_chunks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for module in (orchestrator.series, orchestrator.store.series):
            patch.setattr(module, "CHUNK_POINTS", SMALL)
        for module in (orchestrator.store.store, orchestrator.store.series):
            patch.setattr(module, "SEAL_ROWS", SMALL)
        yield


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "saeforge.db")
    yield opened
    await opened.close()


async def begun(store: Store) -> Attempt:
    job = await store.submit(training_job())
    return await store.begin_attempt(job, executor="fake", gpus=(), cpus=1)


def measured(*steps: int, seq: int = 1, **values: float) -> list[Metrics]:
    return [
        Metrics(seq=seq + n, ts=step / 10, step=step, values=values or {"loss": step}) for n, step in enumerate(steps)
    ]


async def points(store: Store, attempt: Attempt, name: str = "loss", **asked: Any) -> list[tuple[int, float]]:
    found = await store.measurements.series(attempt.job_id, "metrics", names=[name], most=10_000, **asked)
    return [(point.step, point.value) for series in found for point in series.points]


async def exported(store: Store, attempt: Attempt, **asked: Any) -> list[Sample]:
    return [item async for page in store.measurements.samples(attempt.job_id, "metrics", **asked) for item in page]


def rows(path: Path, table: str) -> int:
    database = sqlite3.connect(path)
    (count,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
    database.close()
    return int(count)


# --- against a dictionary

values = st.dictionaries(st.sampled_from(["loss", "fvu", "grad_norm.encoder"]), finite, max_size=3)
batch = st.lists(st.tuples(st.integers(-2, 12), values), min_size=1, max_size=25)
"""How far from the step before, and what was measured there."""
action = st.one_of(
    st.tuples(st.just("report"), batch),
    st.tuples(st.just("resume"), st.none() | st.integers(0, 200)),
    st.tuples(st.just("seal"), st.none()),
)


class Plain:
    """Every value that stands, by name and step."""

    def __init__(self) -> None:
        self.values: dict[str, dict[int, float]] = {}
        self.step = self.seq = 0
        self.any = False
        self.resuming = False
        self.checkpoint: int | None = None

    def resume(self, checkpoint: int | None) -> None:
        self.step, self.seq = checkpoint or 0, 0
        # Of several attempts that measure nothing in between only the last matters.
        self.resuming, self.checkpoint = self.any, checkpoint

    def reported(self, about: list[tuple[int, dict[str, float]]]) -> list[Metrics]:
        """Take in what is reported next, and give the events that say so."""
        events = []
        for apart, measured in about:
            self.step, self.seq = max(0, self.step + apart), self.seq + 1
            events.append(Metrics(seq=self.seq, ts=self.seq, step=self.step, values=measured))
            if self.resuming:
                cut = self.step if self.checkpoint is None else self.checkpoint + 1
                self.values = {
                    name: {at: value for at, value in kept.items() if at < cut} for name, kept in self.values.items()
                }
            self.any, self.resuming = True, False
            for name, value in measured.items():
                self.values.setdefault(name, {})[self.step] = value
        return events

    def of(self, name: str, within: Range) -> list[tuple[int, float]]:
        return [
            (step, value)
            for step, value in sorted(self.values.get(name, {}).items())
            if within.start <= step <= within.end and step % within.interval == 0
        ]


ranges = st.tuples(st.integers(0, 300), st.integers(0, 300)).map(sorted)


def test_the_newest_value_of_each_step_stands_whatever_happens(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        # One store for all examples: each flush of the disk counts.
        store = runner.run(Store.open(tmp_path / "saeforge.db"))

        @settings(max_examples=60, deadline=None)
        @given(st.lists(action, min_size=1, max_size=12), ranges, st.integers(1, 3), st.integers(2, 30))
        def example(actions: list[tuple[str, Any]], ends: list[int], interval: int, most: int) -> None:
            runner.run(scenario(store, actions, Range(*ends, interval), most))

        try:
            example()
        finally:
            runner.run(store.close())


async def scenario(store: Store, actions: list[tuple[str, Any]], within: Range, most: int) -> None:
    attempt = await begun(store)
    plain = Plain()
    for name, about in actions:
        if name == "report":
            await store.append_events(attempt, plain.reported(about), 1)
        elif name == "resume":
            checkpoint = None if about is None else f"/runs/{attempt.number}/checkpoints/step_{about}"
            attempt = replace(attempt, number=attempt.number + 1, resume_from=checkpoint)
            plain.resume(about)
        else:
            await store.measurements.seal(attempt.job_id, "metrics")
    for asked in (Range(), within):
        await compare(store, attempt, plain, asked, most)


async def compare(store: Store, attempt: Attempt, plain: Plain, asked: Range, most: int) -> None:
    expected = {name: found for name in sorted(plain.values) if (found := plain.of(name, asked))}
    found = await store.measurements.series(attempt.job_id, "metrics", within=asked, most=10_000)
    assert {item.name: [(at, value) for at, _, value in item.points] for item in found} == expected
    assert {item.name: item.stats.count for item in found} == {name: len(points) for name, points in expected.items()}
    by_step: dict[int, dict[str, float]] = {}
    for name, points in expected.items():
        for at, value in points:
            by_step.setdefault(at, {})[name] = value
    assert {item.step: item.values for item in await exported(store, attempt, within=asked)} == by_step
    for item in await store.measurements.series(attempt.job_id, "metrics", within=asked, most=most):
        passed = plain.of(item.name, Range(0, asked.start - 1)) if asked.interval == 1 else []
        columns = Columns.of(Point(at, 0, value) for at, value in expected[item.name])
        kept = thinned([Piece.of(len(passed), columns)], most)
        assert [(at, value) for at, _, value in item.points] == [(at, value) for at, _, value in kept]


# --- one property each


async def test_values_come_back_exactly_as_they_were_measured(store: Store) -> None:
    attempt = await begun(store)
    awkward = [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3, 2.0**53 + 2, 1e22]
    events = [Metrics(seq=n + 1, ts=1e9 + n / 7, step=n, values={"loss": v}) for n, v in enumerate(awkward)]
    await store.append_events(attempt, events, 1)
    for _ in range(2):
        samples = await exported(store, attempt)
        assert [json.dumps(item.values["loss"]) for item in samples] == [json.dumps(value) for value in awkward]
        assert [item.ts for item in samples] == [event.ts for event in events]
        await store.measurements.seal(attempt.job_id, "metrics")


async def test_measurements_of_one_step_may_come_in_several_events(store: Store) -> None:
    attempt = await begun(store)
    await store.append_events(attempt, [*measured(10, loss=1.0), *measured(10, seq=2, grad_norm=2.0)], 1)
    assert await exported(store, attempt) == [Sample(10, 1.0, {"loss": 1.0, "grad_norm": 2.0})]
    await store.append_events(attempt, measured(10, seq=3, fvu=3.0), 2)
    assert (await store.job(attempt.job_id)).metrics == {"step": 10, "loss": 1.0, "grad_norm": 2.0, "fvu": 3.0}


async def test_enough_measurements_leave_the_rows_for_chunks(store: Store, tmp_path: Path) -> None:
    attempt = await begun(store)
    await store.append_events(attempt, measured(*range(100)), 1)
    assert rows(tmp_path / "saeforge.db", "samples") == 0
    assert rows(tmp_path / "saeforge.db", "chunks") == 100 // SMALL + 1
    assert await points(store, attempt) == [(step, step) for step in range(100)]


async def test_an_attempt_that_resumes_overwrites_what_lies_beyond_its_checkpoint(store: Store) -> None:
    first = await begun(store)
    await store.append_events(first, measured(*range(0, 400, 10)), 1)
    second = replace(first, number=2, resume_from="/runs/1/checkpoints/step_200")
    assert (await points(store, first))[-1] == (390, 390)
    await store.append_events(second, measured(207, 217, loss=-1.0), 1)
    assert (await points(store, first))[-4:] == [(190, 190), (200, 200), (207, -1), (217, -1)]


async def test_an_attempt_that_starts_over_replaces_the_curve(store: Store) -> None:
    first = await begun(store)
    await store.append_events(first, measured(*range(10, 400, 10)), 1)
    await store.append_events(replace(first, number=2), measured(10, 20, loss=-1.0), 1)
    assert await points(store, first) == [(10, -1), (20, -1)]


async def test_events_read_twice_do_not_rewind_anything(store: Store) -> None:
    first = await begun(store)
    second = replace(first, number=2, resume_from="/runs/1/checkpoints/step_50")
    again = measured(60, 70, 80)
    await store.append_events(first, measured(*range(0, 100, 10)), 1)
    await store.append_events(second, again, 1)
    await store.append_events(second, again[:1], 1)
    assert [step for step, _ in await points(store, first)] == [0, 10, 20, 30, 40, 50, 60, 70, 80]


async def test_sealing_gives_way_to_what_is_measured_meanwhile(store: Store) -> None:
    attempt = await begun(store)
    await asyncio.gather(
        *(store.append_events(attempt, measured(*range(n, n + 5), seq=n + 1), 1) for n in range(0, 200, 5)),
        *(store.measurements.seal(attempt.job_id, "metrics") for _ in range(10)),
    )
    assert await points(store, attempt) == [(step, step) for step in range(200)]


async def test_statistics_tell_where_the_extremes_are(store: Store) -> None:
    attempt = await begun(store)
    losses = [5.0, 1.0, 9.0, 1.0, 9.0] * 10
    await store.append_events(
        attempt, [Metrics(seq=n + 1, ts=n, step=n, values={"loss": v}) for n, v in enumerate(losses)], 1
    )
    (found,) = await store.measurements.series(attempt.job_id, "metrics", within=Range(start=3, end=40))
    assert (found.stats.low, found.stats.high) == (Point(3, 3, 1.0), Point(4, 4, 9.0))
    assert (found.stats.first.step, found.stats.last.step, found.stats.count) == (3, 40, 38)
    assert found.points == ()


async def test_series_are_asked_for_by_name(store: Store) -> None:
    attempt = await begun(store)
    await store.append_events(attempt, measured(1, 2, a=1.0, b=2.0, c=3.0), 1)
    found = await store.measurements.series(attempt.job_id, "metrics", names=["c", "a", "unknown"])
    assert [item.name for item in found] == ["a", "c"]
    assert await store.measurements.names(attempt.job_id, "metrics") == ["a", "b", "c"]


async def test_what_a_job_uses_is_kept_with_the_most_of_it(store: Store) -> None:
    attempt = await begun(store)
    for at, (memory_mb, gpu_mb) in enumerate([(100, None), (300, 50), (200, 40)]):
        sample = Sample(at * 1000, at, {"memory_bytes": memory_mb * 2**20})
        await store.measurements.record(attempt, sample, memory_mb=memory_mb, gpu_memory_mb=gpu_mb)
    kept = await store.attempt(attempt.job_id, attempt.number)
    assert (kept.peak_memory_mb, kept.peak_gpu_memory_mb) == (300, 50)
    (found,) = await store.measurements.series(attempt.job_id, "resources", most=10)
    assert [(point.ts, point.value / 2**20) for point in found.points] == [(0, 100), (1, 300), (2, 200)]


async def test_a_job_purged_meanwhile_is_nothing_to_keep_usage_of(store: Store) -> None:
    attempt = await begun(store)
    job = await store.job(attempt.job_id)
    await store.finish(attempt, Ended(EndReason.COMPLETED, JobStatus.COMPLETED), seen_as=job)
    await store.free(attempt)
    await store.removals.purge(job.id)
    await store.measurements.record(attempt, Sample(0, 0, {"cpu_cores": 1.0}), memory_mb=1, gpu_memory_mb=None)
    assert await store.measurements.names(job.id, "resources") == []


async def test_nothing_stays_of_a_purged_job(store: Store, tmp_path: Path) -> None:
    attempt = await begun(store)
    job: Job = await store.job(attempt.job_id)
    await store.append_events(attempt, measured(*range(50)), 1)
    await store.append_events(attempt, measured(51, seq=60), 2)
    await store.finish(attempt, Ended(EndReason.COMPLETED, JobStatus.COMPLETED), seen_as=job)
    await store.free(attempt)
    await store.removals.purge(job.id)
    assert [rows(tmp_path / "saeforge.db", table) for table in ("samples", "series", "chunks", "series_heads")] == [
        0
    ] * 4


async def test_metrics_of_a_database_from_before_chunks_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "saeforge.db"
    database = sqlite3.connect(path)
    for number, script in enumerate(migrations()[:2], start=1):
        database.executescript(f"{script}; PRAGMA user_version = {number};")
    job = training_job()
    about = (str(job.id), job.type, "n", "o", 0, job.params.model_dump_json(), "{}", "running", 0)
    database.execute(
        "INSERT INTO jobs (id, type, name, owner, priority, params, resources, status, created_at, attempts)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
        about,
    )
    database.executemany(
        "INSERT INTO metrics VALUES (?, ?, ?, ?)",
        [(str(job.id), step, step, json.dumps({"loss": step / 3})) for step in range(1000)],
    )
    database.commit()
    database.close()
    store = await Store.open(path)
    attempt = Attempt(job_id=job.id, number=1, executor="fake", created_at=job.created_at)
    assert await points(store, attempt) == [(step, step / 3) for step in range(1000)]
    assert rows(path, "samples") == 0
    await store.append_events(attempt, measured(1000), 1)
    assert (await points(store, attempt))[-2:] == [(999, 333.0), (1000, 1000)]
    await store.close()


CRASH = """
import asyncio, sys
from pathlib import Path
from uuid import UUID
from orchestrator.store import Store
from orchestrator.domain import Attempt
from worker_image.contract.events import Metrics

async def main():
    store = await Store.open(Path(sys.argv[1]))
    attempt = await store.attempt(UUID(sys.argv[2]), 1)
    events = [Metrics(seq=n + 1, ts=n, step=n, values={"loss": n}) for n in range(3000)]
    await store.append_events(attempt, events, 1)

asyncio.run(main())
"""


@pytest.mark.parametrize(("point", "left"), [("events_written", 0), ("chunks_written", 3000)])
async def test_a_death_while_measurements_are_written_loses_and_doubles_nothing(
    tmp_path: Path, point: str, left: int
) -> None:
    path = tmp_path / "saeforge.db"
    store = await Store.open(path)
    attempt = await begun(store)
    await store.close()
    command = [sys.executable, "-c", CRASH, str(path), str(attempt.job_id)]
    dying = await asyncio.create_subprocess_exec(*command, env={**os.environ, "SAEFORGE_FAULT": point})
    assert await dying.wait() == -signal.SIGKILL
    store = await Store.open(path)
    assert len(await points(store, attempt, within=Range(0, MAX_STEP))) == left
    events = [Metrics(seq=n + 1, ts=n, step=n, values={"loss": n}) for n in range(3000)]
    await store.append_events(attempt, events, 1)
    assert await points(store, attempt) == [(step, step) for step in range(3000)]
    await store.close()
