import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args
from uuid import UUID

import pytest

from orchestrator.domain import Job
from orchestrator.errors import InvalidInput
from orchestrator.store import JobFilter, Store
from orchestrator.store.paging import NEWEST_FIRST, WITH_CURSOR, Cursor, Sort, beyond, order
from orchestrator.store.statements import migrations, statements
from tests.unit.orchestrator.jobs import container_job

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "saeforge.db")
    yield opened
    await opened.close()


async def filled(store: Store) -> list[Job]:
    """Jobs of which some share their moment, oldest first."""
    jobs = [
        container_job(created_at=MOMENT + timedelta(seconds=n // 3), name=f"run {n * 7 % 10}", priority=n % 4)
        for n in range(11)
    ]
    await asyncio.gather(*(store.submit(job) for job in jobs))
    return sorted(jobs, key=lambda job: (job.created_at, str(job.id)))


async def paged(store: Store, sort: Sort) -> list[Job]:
    """All jobs, read by cursor; a job is submitted in between."""
    found: list[Job] = []
    after: Cursor | None = None
    while page := (await store.jobs(JobFilter(), limit=4, sort=sort, after=after))[0]:
        found += page
        after = Cursor.parse(str(Cursor.after(page[-1])))
        if sort == NEWEST_FIRST:
            await store.submit(container_job())
    return found


async def test_pages_by_cursor_are_the_whole_list_whatever_is_submitted_meanwhile(store: Store) -> None:
    jobs = await filled(store)
    assert await paged(store, "-created_at") == jobs[::-1]


async def test_pages_by_cursor_go_the_other_way_as_well(store: Store) -> None:
    jobs = await filled(store)
    assert await paged(store, "created_at") == jobs


async def test_the_total_counts_the_jobs_of_all_pages(store: Store) -> None:
    jobs = await filled(store)
    page, total = await store.jobs(JobFilter(), limit=2, after=Cursor.after(jobs[1]))
    assert [page, total] == [[jobs[0]], len(jobs)]


@pytest.mark.parametrize(("sort", "field"), [("name", "name"), ("-priority", "priority")])
async def test_jobs_are_sorted_by_what_is_asked(store: Store, sort: Sort, field: str) -> None:
    jobs = await filled(store)
    found, _ = await store.jobs(JobFilter(), limit=100, sort=sort)
    values = [getattr(job, field) for job in found]
    assert values == sorted((getattr(job, field) for job in jobs), reverse=sort.startswith("-"))


async def test_jobs_that_have_not_started_come_last(store: Store) -> None:
    job = (await filled(store))[3]
    attempt = await store.begin_attempt(job, executor="fake", gpus=(), cpus=1)
    await store.attach(attempt, "handle")
    running = await store.transition(await store.job(job.id), "running", "test")
    for sort in ("started_at", "-started_at"):
        assert (await store.jobs(JobFilter(), limit=100, sort=sort))[0][0] == running


@pytest.mark.parametrize("text", ["", "x", "not a cursor at all", str(Cursor(0.0, UUID(int=0)))[:-4]])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        Cursor.parse(text)


def test_an_order_without_cursors_says_so() -> None:
    with pytest.raises(InvalidInput, match="sorted by name"):
        beyond("name")


FILTERS = [
    JobFilter(status=("queued",)),
    JobFilter(type="t"),
    JobFilter(owner="o"),
    JobFilter(tag="t"),
    JobFilter(model="m"),
    JobFilter(dataset="d"),
]


def steps(statement: str, where: str, sort: Sort, values: dict[str, str]) -> list[str]:
    """What SQLite says it does for a list of jobs."""
    file = sqlite3.connect(":memory:")
    for script in migrations():
        file.executescript(script)
    sql = statements()[statement].format(where=where, order=order(sort))
    bound = {**values, "limit": 50, "offset": 0, "cursor_time": 0.0, "cursor_id": ""}
    rows = file.execute(f"EXPLAIN QUERY PLAN {sql}", bound).fetchall()
    file.close()
    return [row[3] for row in rows]


@pytest.mark.parametrize("statement", ["jobs", "count_jobs"])
@pytest.mark.parametrize("wanted", FILTERS)
def test_no_filtered_list_looks_at_all_jobs(wanted: JobFilter, statement: str) -> None:
    where, values = wanted.where()
    found = steps(statement, where, NEWEST_FIRST, values)
    assert not [step for step in found if step.startswith("SCAN jobs")], found


@pytest.mark.parametrize("wanted", [wanted for wanted in FILTERS if wanted.tag is None])
@pytest.mark.parametrize("sort", WITH_CURSOR)
def test_a_page_is_read_off_an_index_in_its_order_from_its_cursor_on(wanted: JobFilter, sort: Sort) -> None:
    where, values = wanted.where()
    found = steps("jobs", f"{where} AND {beyond(sort)}", sort, values)
    assert [step for step in found if "USING" in step and "(created_at,id)" in step], found


def test_a_searched_list_reads_names_off_an_index() -> None:
    where, values = JobFilter(q="x").where()
    for statement in ("jobs", "count_jobs"):
        found = steps(statement, where, NEWEST_FIRST, values)
        assert "SCAN jobs USING COVERING INDEX jobs_by_age" in found


def test_every_order_can_be_asked_for() -> None:
    for sort in get_args(Sort):
        assert steps("jobs", "1", sort, {})
