"""Backups and cleanups."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.views.base import View


class BackupView(View):
    """A copy of the database."""

    path: str
    """File on the orchestrator's machine."""
    size_bytes: int
    created_at: datetime


class CleanupRequest(BaseModel):
    """Body of ``POST /api/system/cleanup``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    older_than_days: float | None = Field(default=None, ge=0, le=36_500)
    """Archive jobs that ended longer ago; SAEFORGE_ARCHIVE_AFTER_DAYS when empty."""
    dry_run: bool = False
    """Only say what would be done."""
    orphans: bool = False
    """Delete the run directories of no known job as well."""
    cache: bool = False
    """Delete what no job uses of the activation cache as well; it is harvested again when it is next asked for."""


class OrphanView(View):
    """A run directory of no known job."""

    path: str
    size_bytes: int


class CleanupView(View):
    """What was cleaned up, or would be in a dry run."""

    dry_run: bool
    jobs: int
    """Jobs archived."""
    checkpoints: int
    """Checkpoints removed."""
    freed_bytes: int
    """Bytes given back; what packing saves is not known beforehand, so a dry run leaves it out."""
    log_bytes: int
    """Bytes of logs and event files before they were packed."""
    left: int
    """Jobs that are due and were not reached: ask again."""
    orphans: list[OrphanView]
    """Run directories of no known job."""
    orphans_removed: bool
    cache_entries: int = 0
    """Entries of the activation cache that no job uses and that were asked to go."""
    cache_bytes: int = 0
    """Theirs; not part of ``freed_bytes``."""
