"""Transactions that are committed together: each as if it were alone."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.store import Store
from orchestrator.store.database import MOST_TOGETHER, Database, Session
from tests.unit.orchestrator.jobs import container_job


class Refused(Exception):
    """The unit of work does not want to be done after all."""


@dataclass(frozen=True)
class Unit:
    """What one caller does: appends to a chain of events, each numbered one above the last it sees."""

    events: int
    fails: bool
    in_block: bool
    """Whether it is a block on the event loop instead of a function on the writer's thread."""
    cancelled_after: int | None
    """Steps of the event loop before its caller gives up."""


units = st.builds(
    Unit,
    events=st.integers(1, 4),
    fails=st.booleans(),
    in_block=st.booleans(),
    cancelled_after=st.none() | st.integers(0, 25),
)


def link(name: int, number: int) -> str:
    return json.dumps({"unit": name, "number": number})


def next_number(chain: list[sqlite3.Row]) -> int:
    return int(json.loads(chain[-1]["data"])["number"]) + 1 if chain else 0


def appended(session: Session, job: str, name: int, unit: Unit) -> None:
    for _ in range(unit.events):
        number = next_number(session.all("job_events", kinds=None, job_id=job, after=1, limit=-1))
        session.run("insert_event", job_id=job, attempt=None, seq=None, ts=0.0, type="link", data=link(name, number))
    if unit.fails:
        raise Refused


async def append(db: Database, job: str, name: int, unit: Unit) -> None:
    if not unit.in_block:
        await db.write(lambda session: appended(session, job, name, unit))
        return
    async with db.transaction():
        for _ in range(unit.events):
            number = next_number(await db.all("job_events", kinds=None, job_id=job, after=1, limit=-1))
            await db.run(
                "insert_event", job_id=job, attempt=None, seq=None, ts=0.0, type="link", data=link(name, number)
            )
        if unit.fails:
            raise Refused


async def give_up(task: "asyncio.Task[None]", steps: int) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()


async def chain_of(path: Path, plan: list[Unit]) -> tuple[list[object], list[tuple[int, int]]]:
    """Run all units at once; what their callers got, and the (unit, number) of the links that are there afterwards."""
    store = await Store.open(path)
    job = str((await store.submit(container_job())).id)
    await store.close()
    db = await Database.open(path)
    tasks = [asyncio.create_task(append(db, job, name, unit)) for name, unit in enumerate(plan)]
    cancelling = [
        give_up(task, unit.cancelled_after)
        for task, unit in zip(tasks, plan, strict=True)
        if unit.cancelled_after is not None
    ]
    await asyncio.gather(*cancelling)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    await db.close()
    with sqlite3.connect(path) as file:
        links = [
            json.loads(data)
            for (data,) in file.execute("SELECT data FROM events WHERE type = 'link' AND job_id = ? ORDER BY id", [job])
        ]
    file.close()
    return list(answers), [(item["unit"], item["number"]) for item in links]


@settings(max_examples=60, deadline=None)
@given(st.lists(units, min_size=1, max_size=12))
def test_transactions_at_once_are_what_some_order_of_them_is(plan: list[Unit]) -> None:
    with TemporaryDirectory() as folder:
        answers, links = asyncio.run(chain_of(Path(folder) / "saeforge.db", plan))
    assert [number for _, number in links] == list(range(len(links))), "each saw all that came before it"
    done = [name for place, (name, _) in enumerate(links) if place == 0 or links[place - 1][0] != name]
    assert len(done) == len(set(done)), "none came between the links of another"
    for name, (unit, answer) in enumerate(zip(plan, answers, strict=True)):
        count = sum(linked == name for linked, _ in links)
        if isinstance(answer, asyncio.CancelledError):
            assert count in ({0} if unit.fails else {0, unit.events})
        elif unit.fails:
            assert isinstance(answer, Refused)
            assert count == 0
        else:
            assert answer is None
            assert count == unit.events


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "saeforge.db")
    yield opened
    await opened.close()


async def test_what_comes_while_a_commit_is_under_way_is_committed_together(db: Database) -> None:
    statements: list[str] = []
    await db._writer.set_trace_callback(statements.append)
    await asyncio.gather(*(db.write(lambda session: None) for _ in range(MOST_TOGETHER + 1)))
    assert statements.count("COMMIT") == 2


async def test_a_failing_commit_fails_everybody_in_it(db: Database) -> None:
    def orphan(session: Session) -> None:
        # Checked when the transaction is committed, by which time every unit has been done.
        session._connection.execute("PRAGMA defer_foreign_keys = ON")
        session.run("insert_event", job_id="no such job", attempt=None, seq=None, ts=0.0, type="t", data="{}")

    def harmless(session: Session) -> None:
        session.all("queue")

    answers = await asyncio.gather(db.write(harmless), db.write(orphan), db.write(harmless), return_exceptions=True)
    assert [type(answer) for answer in answers] == [sqlite3.IntegrityError] * 3
    assert await db.all("events", kinds=None, after=0, limit=10) == []
    await db.write(harmless)


async def test_of_those_who_meet_a_full_disk_only_those_with_an_answer_are_kept(db: Database) -> None:
    job = str((await Store(db).submit(container_job())).id)
    await db.write(lambda session: session._connection.execute("PRAGMA max_page_count = 60"))

    def event(session: Session, name: str, size: int) -> None:
        session.run("insert_event", job_id=job, attempt=None, seq=None, ts=0.0, type=name, data=json.dumps("x" * size))

    sizes = {"small": 10, "large": 1_000_000, "medium": 100}
    answers = await asyncio.gather(
        *(db.write(partial(event, name=name, size=size)) for name, size in sizes.items()), return_exceptions=True
    )
    answered = {name for name, answer in zip(sizes, answers, strict=True) if answer is None}
    assert "large" not in answered
    kept = {row["type"] for row in await db.all("events", kinds=None, after=1, limit=10)}
    assert kept == answered
    await db.write(partial(event, name="later", size=10))


async def test_a_cancelled_caller_that_still_waits_has_nothing_done(db: Database) -> None:
    async with db.transaction():
        waiting = asyncio.create_task(db.write(lambda session: pytest.fail("it was given up")))
        await asyncio.sleep(0)
        waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    await db.write(lambda session: None)


async def test_closing_waits_for_what_is_being_written(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "saeforge.db")
    job = container_job()
    writing = asyncio.create_task(store.submit(job))
    await asyncio.sleep(0)
    await store.close()
    assert await writing == job


WRITER = """
import asyncio, sys
from pathlib import Path
from orchestrator.store import Store
from tests.unit.orchestrator.jobs import container_job

async def submit(store):
    while True:
        job = await store.submit(container_job(tags=("a", "b")))
        sys.stdout.write(f"{job.id}\\n")
        sys.stdout.flush()

async def main():
    store = await Store.open(Path(sys.argv[1]))
    await asyncio.gather(*(submit(store) for _ in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("acknowledged", [1, 40, 333])
def test_kill_9_loses_nothing_that_was_answered_and_keeps_nothing_half(tmp_path: Path, acknowledged: int) -> None:
    path = tmp_path / "saeforge.db"
    program = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.getcwd()}) as writer:
        assert writer.stdout is not None
        answered = [writer.stdout.readline().decode().strip() for _ in range(acknowledged)]
        writer.send_signal(signal.SIGKILL)
        answered += [line.decode().strip() for line in writer.stdout]
    file = sqlite3.connect(path)
    kept = {name for (name,) in file.execute("SELECT id FROM jobs")}
    tagged = {name for (name,) in file.execute("SELECT job_id FROM job_tags GROUP BY job_id HAVING count(*) = 2")}
    told = {name for (name,) in file.execute("SELECT job_id FROM events WHERE type = 'job_created'")}
    file.close()
    assert set(answered) <= kept
    assert kept == tagged == told
