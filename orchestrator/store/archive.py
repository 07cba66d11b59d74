"""Which ended jobs may be put aside, and that they were."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

from orchestrator.domain import Checkpoint
from orchestrator.store.database import Database, Session


class Archive:
    """Jobs that are kept and no longer listed."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def due(self, before: datetime, *, limit: int, offset: int = 0) -> list[UUID]:
        """Jobs that ended before then and that nothing alive continues from, the first to end in front."""
        found = await self._db.all("to_archive", before=before.timestamp(), limit=limit, offset=offset)
        return [UUID(row["id"]) for row in found]

    async def count_due(self, before: datetime) -> int:
        row = await self._db.one("count_to_archive", before=before.timestamp())
        return 0 if row is None else int(row["n"])

    async def continued_from(self, job_folder: Path) -> set[Path]:
        """Checkpoints under a job's folder that a job, whatever became of it, was to continue from."""
        folder = f"{job_folder}/"
        # The end of the range is the first text that no path in the folder begins with.
        found = await self._db.all("continued_from", folder=folder, after=f"{job_folder}0")
        return {Path(row["resume_from"]) for row in found}

    async def archive(self, job_id: UUID, now: datetime, *, removed: Sequence[Checkpoint], freed_bytes: int) -> bool:
        """Record that a job is archived and which of its checkpoints are gone; whether it was still to be."""

        def keep(session: Session) -> bool:
            if not session.run("archive_job", id=str(job_id), now=now.timestamp()):
                return False
            for item in removed:
                session.run("delete_checkpoint", job_id=str(job_id), attempt=item.attempt, name=item.name)
            data = {"checkpoints_removed": [item.name for item in removed], "freed_bytes": freed_bytes}
            session.run(
                "insert_event",
                job_id=str(job_id),
                attempt=None,
                seq=None,
                ts=now.timestamp(),
                type="job_archived",
                data=json.dumps(data),
            )
            return True

        return await self._db.write(keep)

    async def job_ids(self) -> set[UUID]:
        """Every job there is."""
        return {UUID(row["id"]) for row in await self._db.all("all_job_ids")}
