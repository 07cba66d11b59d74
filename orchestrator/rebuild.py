"""Run directories to rows: what happened after the database's last change, as after a backup was put back.

Nothing is run again that the files say was run: an attempt that may still run is handed to its supervisor, which finds
its container by its labels; one that ended is recorded as it ended.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from pydantic import ValidationError

from orchestrator.domain import TERMINAL, EndReason, JobFailure, JobStatus
from orchestrator.record import Begun, read_begun, read_settled
from orchestrator.store import Ended, Store
from orchestrator.store.recovery import FoundAttempt, Known
from orchestrator.tail import read_lines
from worker_image.contract.events import Event, event
from worker_image.contract.rundir import RunDir

logger = logging.getLogger(__name__)

_INGEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What the run directories told that the database did not know."""

    jobs: tuple[UUID, ...]
    """Jobs it did not know at all."""
    attempts: tuple[tuple[UUID, int], ...]
    """Attempts that it did not know, or did not know to have ended."""
    unreadable: tuple[Path, ...]
    """Run directories of which nobody can tell what they are."""


@dataclass(frozen=True, slots=True)
class _FoundJob:
    begun: Begun
    """The newest attempt's."""
    attempts: list[FoundAttempt]


async def rebuild(store: Store, home: Path) -> Rebuilt:
    """Bring the database up to what the run directories tell. Only while nothing else uses it; repeating it is safe."""
    known = await store.recovery.known()
    found, unreadable = await asyncio.to_thread(_scan, home / "runs", known)
    new: list[UUID] = []
    attempts: list[tuple[UUID, int]] = []
    for job in found:
        job_id = job.begun.job.id
        if is_new := job_id not in known:
            new.append(job_id)
        attempts += [(job_id, item.attempt.number) for item in job.attempts]
        await store.recovery.adopt(job.begun.job, job.attempts, is_new=is_new)
        for item in job.attempts:
            if item.ended is not None:
                await _ingest(store, home, job_id, item.attempt.number)
    return Rebuilt(tuple(new), tuple(attempts), tuple(unreadable))


def _scan(runs: Path, known: Mapping[UUID, Known]) -> tuple[list[_FoundJob], list[Path]]:
    """The jobs of which the directories tell more than is known, those that began first in front."""
    found: list[_FoundJob] = []
    unreadable: list[Path] = []
    for folder in sorted(runs.iterdir()) if runs.is_dir() else ():
        job_id = _uuid(folder.name)
        if job_id is None or not folder.is_dir():
            continue
        told = _look(folder, known.get(job_id), unreadable)
        if told is not None:
            found.append(told)
    return sorted(found, key=lambda job: job.begun.attempt.created_at), unreadable


def _look(folder: Path, known: Known | None, unreadable: list[Path]) -> _FoundJob | None:
    numbers = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())
    if not numbers or (known is not None and known.status in TERMINAL):
        return None
    ended_before = known.ended if known else {}
    newest: Begun | None = None
    attempts: list[FoundAttempt] = []
    for number in numbers:
        run_dir = RunDir(folder / str(number))
        if (begun := read_begun(run_dir)) is None:
            if number not in ended_before:
                unreadable.append(run_dir.path)
            continue
        newest = begun
        settled = read_settled(run_dir)
        is_new = number not in ended_before
        if ended_before.get(number) or not (is_new or settled or number < numbers[-1]):
            continue
        ended = settled.ended if settled else None
        if ended is None and number < numbers[-1]:
            ended = _superseded()
        attempts.append(FoundAttempt(begun.attempt, is_new, ended, settled.ended_at if settled else datetime.now(UTC)))
    if newest is None or not attempts or attempts[-1].attempt.number != numbers[-1]:
        return None
    return _FoundJob(newest, attempts)


def _superseded() -> Ended:
    """Of an attempt that a later one followed, and of whose end nothing is known."""
    failure = JobFailure(EndReason.LOST, "how it ended was lost with the database; a later attempt followed")
    return Ended(EndReason.LOST, JobStatus.FAILED, failure=failure)


async def _ingest(store: Store, home: Path, job_id: UUID, number: int) -> None:
    """Store the events of an attempt that nobody will look after any more, from where the database left off."""
    attempt = await store.attempt(job_id, number)
    path, offset = RunDir.of(home, job_id, number).events, attempt.events_offset
    while True:
        lines, after = await asyncio.to_thread(read_lines, path, offset, _INGEST_BYTES)
        if after == offset:
            return
        await store.append_events(attempt, _parsed(lines), after)
        offset = after


def _parsed(lines: list[bytes]) -> list[Event]:
    found: list[Event] = []
    for line in lines:
        try:
            found.append(event.validate_json(line))
        except ValidationError:
            logger.warning("not an event: %.200r", line)
    return found


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
