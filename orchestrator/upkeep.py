"""What the orchestrator does for itself from time to time: back up its database, and archive old jobs."""

import asyncio
import logging
import sqlite3
from datetime import UTC, datetime, timedelta

from orchestrator.cleanup import Cleanup
from orchestrator.errors import OrchestratorError
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.store.backup import Backup, back_up, backup_name, backups, prune
from worker_image.contract.cachedir import CacheDir

logger = logging.getLogger(__name__)

FIRST_S = 600.0
"""Seconds after the start before anything is done: a start has other things to do."""
LOOK_S = 300.0
"""Seconds between looks whether something is due."""
CLEAN_EVERY = timedelta(hours=1)


class Upkeep:
    """Backups and archiving, on request and by the clock."""

    def __init__(self, *, store: Store, settings: Settings) -> None:
        self.cleanup = Cleanup(store, settings.home, CacheDir(settings.activation_cache))
        self._settings = settings
        self._backing_up = asyncio.Lock()
        self._cleaned_at = datetime.min.replace(tzinfo=UTC)

    async def run(self) -> None:
        """Do what is due, for ever. Cancelling it leaves nothing half done that the next time would not mend."""
        await asyncio.sleep(FIRST_S)
        while True:
            await self.look(datetime.now(UTC))
            await asyncio.sleep(LOOK_S)

    async def look(self, now: datetime) -> None:
        """Do what is due now. What fails is told, and tried again at the next look."""
        try:
            if await self._backup_is_due(now):
                await self.back_up()
            # In either direction: the clock may have been set back since.
            if abs(now - self._cleaned_at) < CLEAN_EVERY:
                return
            self._cleaned_at = now
            await self.cleanup.remove_leftovers()
            if self._settings.archive_after_days:
                done = await self.cleanup.run(timedelta(days=self._settings.archive_after_days))
                if done.jobs:
                    logger.info("archived %d jobs, %d bytes freed", done.jobs, done.freed_bytes)
        except (OrchestratorError, OSError, sqlite3.Error) as error:
            logger.error("upkeep failed: %s", error)

    async def back_up(self) -> Backup:
        """Back the database up now, and delete the oldest backups beyond those to keep.

        Raises:
            DatabaseCorrupt: it does not pass its check.
            OSError: the file cannot be written.
        """
        async with self._backing_up:
            folder = self._settings.backups
            target = folder / backup_name(datetime.now(UTC))
            made = await asyncio.to_thread(back_up, self._settings.database, target)
            await asyncio.to_thread(prune, folder, self._settings.backup_keep)
        logger.info("backed up the database: %s (%d bytes)", made.path, made.size_bytes)
        return made

    async def backups(self) -> list[Backup]:
        """Newest first."""
        return await asyncio.to_thread(backups, self._settings.backups)

    async def _backup_is_due(self, now: datetime) -> bool:
        if not self._settings.backup_every_h:
            return False
        # One from the future was made while the clock was wrong, and tells nothing of when the last one was.
        newest = next((made for made in await self.backups() if made.created_at <= now), None)
        return newest is None or now - newest.created_at >= timedelta(hours=self._settings.backup_every_h)
