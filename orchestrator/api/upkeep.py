"""Backups and cleaning up over HTTP."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body

from orchestrator.access import Role
from orchestrator.api.auth import needs
from orchestrator.api.state import Orchestrator
from orchestrator.cleanup import Cleaned
from orchestrator.errors import DiskFull
from orchestrator.store.backup import Backup
from orchestrator.views import BackupView, CleanupRequest, CleanupView, OrphanView

router = APIRouter(prefix="/api/system", tags=["system"])

CLEANUP_S = 20.0
"""Longest one request cleans up; what is left is told, to be asked for again."""


@router.post("/backup", status_code=201)
@needs(Role.ADMIN, whole=True)
async def back_up(orchestrator: Orchestrator) -> BackupView:
    """Back the database up now, into <home>/backups. Jobs go on meanwhile, and so do submits."""
    try:
        return _view(await orchestrator.upkeep.back_up())
    except OSError as error:
        raise DiskFull(f"the backup cannot be written: {error}", suggestion="free space under SAEFORGE_HOME") from error


@router.get("/backups")
@needs(Role.ADMIN, whole=True)
async def backups(orchestrator: Orchestrator) -> list[BackupView]:
    """Backups in <home>/backups, newest first. 'saeforge restore' puts one back."""
    return [_view(item) for item in await orchestrator.upkeep.backups()]


@router.post("/cleanup")
@needs(Role.ADMIN, whole=True)
async def clean_up(
    orchestrator: Orchestrator, request: Annotated[CleanupRequest, Body(default_factory=CleanupRequest)]
) -> CleanupView:
    """Archive jobs that ended long ago; ask again while ``left`` is not 0."""
    days = request.older_than_days
    if days is None:
        days = orchestrator.settings.archive_after_days or 30.0
    done = await orchestrator.upkeep.cleanup.run(
        timedelta(days=days),
        dry_run=request.dry_run,
        remove_orphans=request.orphans,
        empty_cache=request.cache,
        within_s=CLEANUP_S,
    )
    orchestrator.broker.ring()
    return _cleaned(done, request.dry_run)


def _view(backup: Backup) -> BackupView:
    return BackupView(path=str(backup.path), size_bytes=backup.size_bytes, created_at=backup.created_at)


def _cleaned(done: Cleaned, dry_run: bool) -> CleanupView:
    return CleanupView(
        dry_run=dry_run,
        jobs=done.jobs,
        checkpoints=done.checkpoints,
        freed_bytes=done.freed_bytes,
        log_bytes=done.log_bytes,
        left=done.left,
        orphans=[OrphanView(path=str(item.path), size_bytes=item.size_bytes) for item in done.orphans],
        orphans_removed=done.orphans_removed,
        cache_entries=done.cache_entries,
        cache_bytes=done.cache_bytes,
    )
