"""Commands that look after what the orchestrator keeps: backup, restore, cleanup."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.console import Json, command, emit, err, out, size
from orchestrator.client import Client
from orchestrator.domain import JobStatus
from orchestrator.errors import InvalidInput, OrchestratorError, SettingsError
from orchestrator.settings import Settings, read_settings
from orchestrator.transport import Unreachable
from orchestrator.views import BackupView, CleanupView

_BACKUP_TIMEOUT_S = 3600.0
_CLEANUP_TIMEOUT_S = 120.0
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("backup")(backup)
    app.command("restore")(restore)
    app.command("cleanup")(cleanup)


@command
def backup(
    file: Annotated[Path | None, typer.Argument(help="Where to; a new file in <home>/backups when left out.")] = None,
    json: Json = False,
) -> None:
    """Back the database up, whether the orchestrator runs or not. Jobs go on meanwhile."""
    made = _by_orchestrator() if file is None else _here(file)
    if json:
        emit(made)
    else:
        out.print(f"{made.path}  ({size(made.size_bytes)})", soft_wrap=True)


def _by_orchestrator() -> BackupView:
    """Made by the one that runs; by this process, in the same folder, where none does."""
    try:
        with Client(timeout_s=_BACKUP_TIMEOUT_S, retries=0) as client:
            return client.back_up()
    except Unreachable:
        if not read_settings(Settings).database.is_file():
            raise
        return _here(None)


def _here(file: Path | None) -> BackupView:
    try:
        from orchestrator.store.backup import back_up, backup_name
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None
    settings = read_settings(Settings)
    target = file.absolute() if file else settings.backups / backup_name(datetime.now(UTC))
    try:
        made = back_up(settings.database, target)
    except OSError as error:
        raise InvalidInput(f"{target} cannot be written: {error.strerror}", field="file") from error
    return BackupView(path=str(made.path), size_bytes=made.size_bytes, created_at=made.created_at)


@command
def restore(
    file: Annotated[Path | None, typer.Argument(help="The backup; 'ls <home>/backups' shows what there is.")] = None,
    from_runs: Annotated[
        bool, typer.Option("--from-runs", help="From the run directories alone, when there is no backup.")
    ] = False,
    json: Json = False,
) -> None:
    """Put a backup of the database back, then take over what run directories tell of the time since.

    The orchestrator must be down. The file that is replaced is kept in <home>/backups.
    """
    if (file is None) != from_runs:
        raise InvalidInput("give either a backup or --from-runs", field="file")
    settings = read_settings(Settings)
    try:
        from orchestrator.app import sole_owner
        from orchestrator.revocations import Revocations
        from orchestrator.store import backup as copies
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None
    with sole_owner(settings):
        Revocations(settings.revoked_keys).add(copies.revoked_keys(settings.database))
        if file is not None:
            replaced = copies.restore(file.absolute(), settings.database, settings.backups).replaced
        else:
            replaced = copies.set_aside(settings.database, settings.backups)
            settings.database.unlink(missing_ok=True)
        report = asyncio.run(_rebuild(settings)) | {"replaced": str(replaced) if replaced else None}
        if file is not None and replaced is not None:
            report["jobs_settled"] = copies.settle_as_in(replaced, settings.database)
            report["queued"] -= min(report["jobs_settled"], report["queued"])
    if json:
        emit(report)
        return
    if replaced is not None:
        err.print(f"the file it replaced is kept: {replaced}", soft_wrap=True)
    out.print(
        f"{report['jobs']} jobs; from the run directories: {report['jobs_rebuilt']} of them, "
        f"and {report['attempts_rebuilt']} attempts"
    )
    for path in report["unreadable"]:
        err.print(f"{path} is of no known job, and tells none", style="yellow", soft_wrap=True)
    if report["queued"]:
        said = "queued jobs start with 'saeforge up'; what was cancelled or purged while it was queued is not known"
        err.print(f"{report['queued']} {said}", style="yellow")


def _not_installed(error: ModuleNotFoundError) -> SettingsError:
    advice = "pip install 'saeforge[orchestrator]'"
    return SettingsError(f"the orchestrator is not installed here ({error.name})", suggestion=advice)


async def _rebuild(settings: Settings) -> dict[str, Any]:
    from orchestrator.rebuild import rebuild
    from orchestrator.store import Store

    store = await Store.open(settings.database)
    try:
        rebuilt = await rebuild(store, settings.home)
        counts = await store.count_by_status()
    finally:
        await store.close()
    return {
        "jobs": sum(counts.values()),
        "queued": counts[JobStatus.QUEUED],
        "jobs_rebuilt": len(rebuilt.jobs),
        "attempts_rebuilt": len(rebuilt.attempts),
        "unreadable": [str(path) for path in rebuilt.unreadable],
    }


@command
def cleanup(
    older_than: Annotated[
        str | None, typer.Option(help="Jobs that ended longer ago, e.g. 30d, 12h, 4w; SAEFORGE_ARCHIVE_AFTER_DAYS.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Delete the run directories of no known job as well.")
    ] = False,
    cache: Annotated[
        bool, typer.Option("--cache", help="Delete what no job uses of the activation cache as well.")
    ] = False,
    json: Json = False,
) -> None:
    """Archive jobs that ended long ago: their logs packed, only their newest checkpoint and artifacts kept."""
    days = None if older_than is None else _days(older_than)
    done: CleanupView | None = None
    with Client(timeout_s=_CLEANUP_TIMEOUT_S) as client:
        while done is None or (done.left and not dry_run):
            part = client.clean_up(older_than_days=days, dry_run=dry_run, orphans=orphans, cache=cache and done is None)
            if done is not None and not part.jobs:
                raise OrchestratorError(f"{part.left} jobs are left and none is archived any more")
            done = part if done is None else _sum(done, part)
    if json:
        emit(done)
        return
    would = "would be " if dry_run else ""
    out.print(
        f"{done.jobs} jobs {would}archived, {done.checkpoints} checkpoints removed, {size(done.freed_bytes)} freed"
        + (f", {size(done.log_bytes)} of logs packed" if dry_run else "")
    )
    if cache:
        out.print(f"{done.cache_entries} entries of the activation cache {would}deleted, {size(done.cache_bytes)}")
    for orphan in done.orphans:
        said = "deleted" if done.orphans_removed else "is of no known job; --orphans deletes it"
        err.print(f"{orphan.path} ({size(orphan.size_bytes)}) {said}", soft_wrap=True)


def _sum(first: CleanupView, second: CleanupView) -> CleanupView:
    return CleanupView(
        dry_run=second.dry_run,
        jobs=first.jobs + second.jobs,
        checkpoints=first.checkpoints + second.checkpoints,
        freed_bytes=first.freed_bytes + second.freed_bytes,
        log_bytes=first.log_bytes + second.log_bytes,
        left=second.left,
        orphans=first.orphans + [item for item in second.orphans if item not in first.orphans],
        orphans_removed=first.orphans_removed or second.orphans_removed,
        cache_entries=first.cache_entries + second.cache_entries,
        cache_bytes=first.cache_bytes + second.cache_bytes,
    )


def _days(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text.strip())
    if found is None:
        problem = f"--older-than: {text!r} is no length of time"
        raise InvalidInput(problem, field="older_than", suggestion="write it like 30d, 12h or 4w")
    return float(found[1]) * (_UNITS[found[2]] / timedelta(days=1))
