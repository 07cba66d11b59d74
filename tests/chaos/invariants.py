"""What holds of a home once everything has come to rest, whatever was killed before."""

import asyncio
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from uuid import UUID

from orchestrator.domain import TERMINAL, TRANSITIONS, Attempt, Job, JobStatus
from orchestrator.executors.base import Executor
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.store.records import JobFilter, StoredCommand, StoredEvent
from tests.chaos.worker import STARTS, STEP
from worker_image.contract.rundir import RunDir

STEP_LINE = re.compile(r"step (\d+)")


@dataclass(frozen=True)
class Remains:
    """All that is kept of a home."""

    settings: Settings
    jobs: list[Job]
    attempts: dict[UUID, list[Attempt]]
    events: dict[UUID, list[StoredEvent]]
    commands: dict[UUID, list[StoredCommand]]
    leased: Collection[str]
    live: list[Attempt]
    half_deleted: list[str]
    """Jobs and checkpoints whose deletion was begun."""
    broken: list[str] = field(default_factory=list)

    @classmethod
    async def of(cls, settings: Settings) -> "Remains":
        store = await Store.open(settings.database)
        try:
            jobs, _ = await store.jobs(JobFilter(), limit=-1)
            return cls(
                settings=settings,
                jobs=jobs,
                attempts={job.id: await store.attempts(job.id) for job in jobs},
                events={job.id: await store.events(after=0, job_id=job.id, limit=-1) for job in jobs},
                commands={job.id: await store.commands(job.id) for job in jobs},
                leased=await store.leases(),
                live=await store.live_attempts(),
                half_deleted=[
                    *(f"job {job_id}" for job_id in await store.removals.purging()),
                    *(f"checkpoint {item.name} of {item.job_id}" for item in await store.removals.deleting()),
                ],
            )
        finally:
            await store.close()

    def expect(self, holds: object, what: str) -> None:
        if not holds:
            self.broken.append(what)

    def run_dirs(self) -> Iterable[tuple[Job, Attempt, RunDir]]:
        for job in self.jobs:
            for attempt in self.attempts[job.id]:
                yield job, attempt, RunDir.of(self.settings.home, job.id, attempt.number)


def check_invariants(
    settings: Settings,
    executor: Executor,
    *,
    acknowledged: Collection[UUID] = (),
    cancelled: Collection[UUID] = (),
    ends: Collection[JobStatus] = TERMINAL,
) -> Remains:
    """Fail unless all holds of the home; nothing may be going on there any more.

    ``acknowledged``: jobs whose submit was answered. ``cancelled``: those whose cancel was. ``ends``: the statuses that
    jobs may have come to rest in.
    """
    remains = asyncio.run(Remains.of(settings))
    _nothing_is_lost(remains, acknowledged, ends)
    _nothing_is_left(remains, executor)
    for job in remains.jobs:
        is_kept = job.id not in cancelled or job.status is JobStatus.CANCELLED
        remains.expect(is_kept, f"the cancel of {job.id} was acknowledged, and it {job.status}")
        _history_is_lawful(remains, job)
        _events_are_whole(remains, job)
        _attempts_follow_each_other(remains, job)
    for job, attempt, run_dir in remains.run_dirs():
        _ran_once(remains, attempt, run_dir)
        _log_is_whole(remains, job, attempt, run_dir)
    assert not remains.broken, "\n".join(remains.broken)
    return remains


def _nothing_is_lost(remains: Remains, acknowledged: Collection[UUID], ends: Collection[JobStatus]) -> None:
    for job_id in set(acknowledged) - {job.id for job in remains.jobs}:
        remains.expect(False, f"job {job_id} was acknowledged and is not there")
    for job in remains.jobs:
        remains.expect(job.status in ends, f"job {job.id} ({job.name}) has not ended: {job}")


def _nothing_is_left(remains: Remains, executor: Executor) -> None:
    for what in remains.half_deleted:
        remains.expect(False, f"the deletion of {what} was begun and never finished")
    known = {str(job.id) for job in remains.jobs}
    for folder in remains.settings.runs.iterdir():
        remains.expect(folder.name in known, f"{folder} was left by a job that is gone")
    remains.expect(not remains.leased, f"still leased: {remains.leased}")
    remains.expect(not remains.live, f"attempts not put away: {remains.live}")
    owned = asyncio.run(_owned(executor))
    remains.expect(not owned, f"left on the engine: {owned}")
    known = {str(job.id) for job in remains.jobs}
    for folder in remains.settings.runs.iterdir():
        remains.expect(folder.name in known, f"{folder} belongs to no job")


async def _owned(executor: Executor) -> list[str]:
    try:
        return [f"{owned.job_id}/{owned.attempt}" for owned in await executor.list_owned()]
    finally:
        await executor.close()


def _history_is_lawful(remains: Remains, job: Job) -> None:
    """Its changes of status join up, follow the table, and end with the status it has."""
    at = JobStatus.QUEUED
    for event in remains.events[job.id]:
        if event.type == "status_changed":
            before, after = JobStatus(event.data["from"]), JobStatus(event.data["to"])
            remains.expect(before is at, f"{job.id}: was {at}, and then went from {before} to {after}")
            remains.expect(after in TRANSITIONS[before], f"{job.id}: {before} became {after}")
            at = after
    remains.expect(job.status is at, f"{job.id} is {job.status}, and its history ends with {at}")


def _events_are_whole(remains: Remains, job: Job) -> None:
    """Every event a worker wrote is kept, once, in order; and every command got its answer."""
    for attempt in remains.attempts[job.id]:
        kept = [event.seq for event in remains.events[job.id] if event.attempt == attempt.number and event.seq]
        file = RunDir.of(remains.settings.home, job.id, attempt.number).events
        written = file.read_bytes().count(b"\n") if file.exists() else 0
        remains.expect(
            kept == list(range(1, written + 1)),
            f"{attempt.name} wrote {written} events, kept are {len(kept)}: {kept[:5]} ... {kept[-5:]}",
        )
        orders = RunDir.of(remains.settings.home, job.id, attempt.number).commands
        told = [json.loads(line)["id"] for line in orders.read_bytes().splitlines()] if orders.exists() else []
        remains.expect(len(told) == len(set(told)), f"{attempt.name} was told twice: {told}")
    for command in remains.commands[job.id]:
        remains.expect(command.status != "requested", f"{job.id}: nobody answered {command}")


def _attempts_follow_each_other(remains: Remains, job: Job) -> None:
    attempts = remains.attempts[job.id]
    numbers = [attempt.number for attempt in attempts]
    remains.expect(numbers == list(range(1, job.attempts + 1)), f"{job.id} began {job.attempts}, kept are {numbers}")
    for earlier, later in pairwise(attempts):
        remains.expect(
            earlier.ended_at is not None and earlier.ended_at <= later.created_at,
            f"{later.name} began at {later.created_at}, before {earlier.ended_at}",
        )


def _ran_once(remains: Remains, attempt: Attempt, run_dir: RunDir) -> None:
    starts = run_dir.path / STARTS
    pids = starts.read_text().split() if starts.exists() else []
    remains.expect(len(pids) <= 1, f"{attempt.name} was run by processes {pids}")


def _log_is_whole(remains: Remains, job: Job, attempt: Attempt, run_dir: RunDir) -> None:
    """It numbers its steps without a gap, from where the attempt before left its checkpoint."""
    text = run_dir.log.read_text() if run_dir.log.exists() else ""
    steps = [int(number) for number in STEP_LINE.findall(text)]
    first = 1
    if attempt.resume_from:
        checkpoint = Path(attempt.resume_from) / STEP
        # Once its heirs have ended, the job that wrote it may be purged.
        first = int(checkpoint.read_text()) + 1 if checkpoint.exists() else next(iter(steps), 1)
    remains.expect(
        steps == list(range(first, first + len(steps))), f"{attempt.name}: steps {steps[:3]} ... {steps[-3:]}"
    )
    last = attempt.number == job.attempts
    if last and job.status is JobStatus.COMPLETED:
        wanted = int(job.params.env["STEPS"]) if job.params.type == "container" else job.params.steps
        reached = steps[-1] if steps else first - 1
        remains.expect(reached == wanted, f"{attempt.name} completed at step {reached} of {wanted}")
