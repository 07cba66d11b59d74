"""Checkpoints of a job's earlier attempts that a later one's have superseded.

A worker deletes only those of its own attempt: the directories of the others are out of its reach. Both count them all,
by the same policy.
"""

import asyncio
import logging
import shutil
from pathlib import Path

from orchestrator.changes import changes_made, taken_up
from orchestrator.domain import Attempt, Checkpoint, Job
from orchestrator.errors import StateConflict
from orchestrator.store import Store
from worker_image.contract.retention import EarlierCheckpoint, RetentionPolicy, doomed
from worker_image.contract.rundir import RunDir

logger = logging.getLogger(__name__)


async def earlier_checkpoints(store: Store, home: Path, attempt: Attempt) -> tuple[EarlierCheckpoint, ...]:
    """What is on disk of the attempts before, oldest first, but for anomalies: what a worker is told to count."""
    if attempt.number == 1:
        return ()
    return tuple(
        EarlierCheckpoint(attempt=one.attempt, step=one.step, held_out_loss=one.held_out_loss)
        for one, _ in await _on_disk(store, home, attempt)
        if one.attempt < attempt.number
    )


async def delete_superseded(store: Store, home: Path, job: Job, attempt: Attempt) -> None:
    """Delete checkpoints of attempts before ``attempt`` that the job's policy no longer keeps.

    One that something continues from stays, and so does one that cannot be deleted, which is logged.
    """
    if (policy := taken_up(job.params, changes_made(await store.commands(job.id))).retention) is None:
        return
    found = dict(await _on_disk(store, home, attempt))
    for one in superseded(list(found), policy, attempt.number):
        path = found[one]
        try:
            await store.removals.begin_checkpoint(one, path)
        except StateConflict:
            continue
        try:
            await asyncio.to_thread(shutil.rmtree, path)
        except OSError as error:
            logger.warning("%s cannot be deleted: %s", path, error)
            continue
        await store.removals.forget_checkpoint(one)


def superseded(checkpoints: list[Checkpoint], policy: RetentionPolicy, attempt: int) -> list[Checkpoint]:
    """Of all that there are, oldest first, those of attempts before ``attempt`` that the policy does not keep."""
    return [one for one in doomed(checkpoints, policy) if one.attempt < attempt]


async def _on_disk(store: Store, home: Path, attempt: Attempt) -> list[tuple[Checkpoint, Path]]:
    """Those to continue from, oldest first, with where they lie."""
    checkpoints = [one for one in reversed(await store.checkpoints(attempt.job_id)) if not one.is_anomaly]
    return await asyncio.to_thread(_found, home, checkpoints)


def _found(home: Path, checkpoints: list[Checkpoint]) -> list[tuple[Checkpoint, Path]]:
    places = [(one, RunDir.of(home, one.job_id, one.attempt).checkpoint(one.name)) for one in checkpoints]
    return [(one, path) for one, path in places if path is not None]
