"""Cleaning up: ended jobs are archived after a while, and run directories of no job are found.

An archived job keeps its artifacts, its newest checkpoint and those that another job was to continue from. Its logs
and event files are packed, and read as before. Nothing that anything alive continues from is touched.
"""

import asyncio
import logging
import os
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from orchestrator.domain import Checkpoint
from orchestrator.packed import pack
from orchestrator.store import Store
from orchestrator.store.backup import leftovers
from worker_image.contract.cachedir import CacheDir
from worker_image.contract.rundir import RunDir

logger = logging.getLogger(__name__)

_BATCH = 100


@dataclass(frozen=True, slots=True)
class Orphan:
    """A run directory of no job that is known."""

    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was cleaned up, or would be."""

    jobs: int = 0
    """Jobs archived."""
    checkpoints: int = 0
    """Checkpoints removed."""
    freed_bytes: int = 0
    """Bytes given back; of a dry run those of the checkpoints, since what packing saves is not known beforehand."""
    log_bytes: int = 0
    """Bytes of logs and event files, before they were packed."""
    left: int = 0
    """Jobs that are due and for which the time did not suffice, or whose files could not be changed."""
    orphans: tuple[Orphan, ...] = ()
    """Run directories of no known job."""
    orphans_removed: bool = False
    cache_entries: int = 0
    """Entries of the activation cache that nobody uses and that were asked to go."""
    cache_bytes: int = 0
    """Theirs."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What archiving one job does to its files."""

    job_id: UUID
    removed: list[Checkpoint]
    """Those whose directories go, and those whose directories are gone already."""
    folders: list[Path]
    checkpoint_bytes: int
    files: list[Path]
    file_bytes: int


class Cleanup:
    """One at a time."""

    def __init__(self, store: Store, home: Path, cache: CacheDir) -> None:
        self._store, self._home, self._runs, self._cache = store, home, home / "runs", cache
        self._cleaning = asyncio.Lock()

    async def run(
        self,
        older_than: timedelta,
        *,
        dry_run: bool = False,
        remove_orphans: bool = False,
        empty_cache: bool = False,
        within_s: float = 3600.0,
    ) -> Cleaned:
        """Archive the jobs that ended longer ago, as many as ``within_s`` seconds allow, and look for orphans."""
        async with self._cleaning:
            before = datetime.now(UTC) - older_than
            deadline = time.monotonic() + within_s
            done = await (self._foresee if dry_run else self._archive)(before, deadline)
            if not dry_run:
                await self.remove_leftovers()
            orphans = await self._orphans()
            if remove_orphans and not dry_run:
                for orphan in orphans:
                    await asyncio.to_thread(shutil.rmtree, orphan.path)
            freed = sum(orphan.size_bytes for orphan in orphans) if remove_orphans else 0
            evicted = await asyncio.to_thread(_empty, self._cache, dry_run=dry_run) if empty_cache else []
            return Cleaned(
                jobs=done.jobs,
                checkpoints=done.checkpoints,
                freed_bytes=done.freed_bytes + freed,
                log_bytes=done.log_bytes,
                left=done.left,
                orphans=tuple(orphans),
                orphans_removed=remove_orphans and not dry_run and bool(orphans),
                cache_entries=len(evicted),
                cache_bytes=sum(evicted),
            )

    async def remove_leftovers(self) -> None:
        """Delete what crashes and restores left long ago beside the database and its backups. Raises: OSError."""
        await asyncio.to_thread(_remove_leftovers, self._home)

    async def _archive(self, before: datetime, deadline: float) -> Cleaned:
        jobs = checkpoints = freed = log_bytes = failed = 0
        # Those that could not be archived stay due, and stand before the others: they are the oldest.
        while due := await self._store.archive.due(before, limit=_BATCH, offset=failed):
            for job_id in due:
                if time.monotonic() > deadline:
                    return Cleaned(jobs, checkpoints, freed, log_bytes, await self._store.archive.count_due(before))
                plan = await self._plan(job_id)
                if not await self._store.removals.begin_archive(job_id, plan.removed):
                    # Somebody began to continue from it, or to delete it, since it was found to be due.
                    failed += 1
                    continue
                # The files first: cut short here, the job is still due, and the next time does the rest.
                try:
                    job_freed = await asyncio.to_thread(_carry_out, plan)
                except OSError as error:
                    # What a job makes of its directory must not keep the others from being archived.
                    logger.warning("job %s cannot be archived: %s", job_id, error)
                    failed += 1
                    continue
                now = datetime.now(UTC)
                if await self._store.archive.archive(job_id, now, removed=plan.removed, freed_bytes=job_freed):
                    jobs += 1
                checkpoints += len(plan.folders)
                freed += job_freed
                log_bytes += plan.file_bytes
        return Cleaned(jobs, checkpoints, freed, log_bytes, failed)

    async def _foresee(self, before: datetime, deadline: float) -> Cleaned:
        jobs = checkpoints = freed = log_bytes = 0
        while due := await self._store.archive.due(before, limit=_BATCH, offset=jobs):
            for job_id in due:
                if time.monotonic() > deadline:
                    left = await self._store.archive.count_due(before) - jobs
                    return Cleaned(jobs, checkpoints, freed, log_bytes, left)
                plan = await self._plan(job_id)
                jobs += 1
                checkpoints += len(plan.folders)
                freed += plan.checkpoint_bytes
                log_bytes += plan.file_bytes
        return Cleaned(jobs, checkpoints, freed, log_bytes)

    async def _plan(self, job_id: UUID) -> _Plan:
        folder = self._runs / str(job_id)
        checkpoints = await self._store.checkpoints(job_id)
        needed = await self._store.archive.continued_from(folder)
        # What could not be deleted the last time.
        marked = await self._store.removals.deleting_of(job_id)
        return await asyncio.to_thread(_plan, self._home, job_id, checkpoints, needed, marked)

    async def _orphans(self) -> list[Orphan]:
        # In this order: a directory is made after its job is known.
        found = await asyncio.to_thread(_job_folders, self._runs)
        known = await self._store.archive.job_ids()
        unknown = [folder for job_id, folder in found.items() if job_id not in known]
        return [Orphan(folder, await asyncio.to_thread(_tree_bytes, folder)) for folder in unknown]


def _empty(cache: CacheDir, *, dry_run: bool) -> list[int]:
    """Let go of what nobody uses; the bytes of each entry that went, or would go."""
    if dry_run:
        return [entry.size_bytes for entry in cache.look() if not cache.is_used(entry)]
    return [freed for entry in cache.look() if (freed := cache.evict(entry))]


def _plan(
    home: Path, job_id: UUID, checkpoints: list[Checkpoint], needed: set[Path], marked: list[Checkpoint]
) -> _Plan:
    removed: list[Checkpoint] = []
    folders: list[Path] = []
    newest_seen = False
    for item in checkpoints:
        folder = _own_checkpoint(RunDir.of(home, job_id, item.attempt), item.name)
        if folder is None:
            removed.append(item)
        elif folder in needed or not (newest_seen or item.is_anomaly):
            newest_seen = True
        else:
            removed.append(item)
            folders.append(folder)
    for item in marked:
        removed.append(item)
        if (folder := _own_checkpoint(RunDir.of(home, job_id, item.attempt), item.name)) is not None:
            folders.append(folder)
    files = [
        file
        for attempt in _attempt_folders(home / "runs" / str(job_id))
        for file in (RunDir(attempt).log, RunDir(attempt).events)
        if file.is_file() and not file.is_symlink()
    ]
    return _Plan(
        job_id,
        removed,
        folders,
        sum(_tree_bytes(folder) for folder in folders),
        files,
        sum(file.stat().st_blocks * 512 for file in files),
    )


def _remove_leftovers(home: Path) -> None:
    for path in leftovers(home / "saeforge.db", home / "backups", datetime.now(UTC)):
        logger.info("deleting %s, which nobody needs any more", path)
        path.unlink(missing_ok=True)


def _carry_out(plan: _Plan) -> int:
    """Do what was planned; how many bytes that gave back."""
    for folder in plan.folders:
        shutil.rmtree(folder)
    return plan.checkpoint_bytes + sum(pack(file) for file in plan.files)


def _own_checkpoint(run_dir: RunDir, name: str) -> Path | None:
    """A checkpoint that lies where it should: the job owns its directory, and may have put a link in its place."""
    folder = run_dir.checkpoints / name
    if folder.is_symlink() or run_dir.checkpoints.is_symlink() or folder.parent != run_dir.checkpoints:
        return None
    return folder if folder.is_dir() else None


def _attempt_folders(job_folder: Path) -> list[Path]:
    if not job_folder.is_dir():
        return []
    return [path for path in job_folder.iterdir() if path.name.isdecimal() and path.is_dir() and not path.is_symlink()]


def _job_folders(runs: Path) -> dict[UUID, Path]:
    found: dict[UUID, Path] = {}
    for path in runs.iterdir() if runs.is_dir() else ():
        try:
            job_id = UUID(path.name)
        except ValueError:
            continue
        if str(job_id) == path.name and path.is_dir() and not path.is_symlink():
            found[job_id] = path
    return found


def _tree_bytes(folder: Path) -> int:
    """Bytes on disk of everything below; links are not followed."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total
