"""What is kept about pipelines and schedules."""

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from orchestrator.access import MACHINE, Principal
from orchestrator.domain import Job
from orchestrator.errors import NotFound
from orchestrator.pipelines import Pipeline, Step, StepRecord, StepState
from orchestrator.schedules import Schedule
from orchestrator.store import rows
from orchestrator.store.database import Database, Session
from orchestrator.store.jobs import NewJob
from orchestrator.store.submissions import Asked


def no_pipeline(pipeline_id: UUID) -> NotFound:
    """The error for a pipeline that does not exist, or not for whoever asks."""
    advice = "GET /api/pipelines lists those there are"
    return NotFound(f"there is no pipeline {pipeline_id}", field="pipeline", suggestion=advice)


def no_schedule(schedule_id: UUID) -> NotFound:
    """The error for a schedule that does not exist, or not for whoever asks."""
    advice = "GET /api/schedules lists those there are"
    return NotFound(f"there is no schedule {schedule_id}", field="schedule", suggestion=advice)


class Pipelines:
    """The part of the store about pipelines."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def submit(self, pipeline: Pipeline, asked: Asked | None = None) -> UUID:
        """Keep it. One of this id that is kept already stays as it is. Its id, or that of the one which the request
        made before.

        Raises:
            IdempotencyConflict: the key came with a different request before.
        """

        def keep(session: Session) -> UUID:
            if asked is not None and (made := asked.made_before(session)) is not None:
                return made
            session.run(
                "insert_pipeline",
                id=str(pipeline.id),
                name=pipeline.name,
                owner=pipeline.owner,
                tags=json.dumps(pipeline.tags),
                created_at=pipeline.created_at.timestamp(),
            )
            for place, record in enumerate(pipeline.steps):
                session.run(
                    "insert_step",
                    pipeline=str(pipeline.id),
                    name=record.step.name,
                    place=place,
                    spec=record.step.model_dump_json(),
                )
            if asked is not None:
                asked.keep(session, pipeline.id)
            return pipeline.id

        return await self._db.write(keep)

    async def submitted(self, asked: Asked) -> UUID | None:
        """The pipeline that this request made before. Raises: IdempotencyConflict."""
        return await self._db.read(asked.made_before)

    async def get(self, pipeline_id: UUID) -> Pipeline:
        """Raises: NotFound."""
        row = await self._db.one("pipeline", id=str(pipeline_id))
        if row is None:
            raise no_pipeline(pipeline_id)
        return await self._whole(row)

    async def list(self, *, limit: int, offset: int = 0, who: Principal = MACHINE) -> list[Pipeline]:
        """Those of which every step is within somebody's reach, newest first."""
        within: dict[str, object] = {"owner": who.owner, "types": json.dumps(who.types)}
        found = await self._db.all("pipelines", limit=limit, offset=offset, **within)
        return [await self._whole(row) for row in found]

    async def waiting(self) -> Sequence[UUID]:
        """Those with a step that waits."""
        return [UUID(row["pipeline"]) for row in await self._db.all("waiting_pipelines")]

    async def start(self, pipeline_id: UUID, step: str, job: Job) -> bool:
        """Queue a step's job, once; whether it was this time."""
        new = NewJob(job)

        def keep(session: Session) -> bool:
            settled = session.run(
                "settle_step",
                pipeline=str(pipeline_id),
                name=step,
                state=StepState.STARTED,
                job_id=str(job.id),
                detail="",
            )
            if settled:
                new.write(session)
            return bool(settled)

        return await self._db.write(keep)

    async def end(self, pipeline_id: UUID, step: str, state: StepState, detail: str) -> None:
        """Say why a waiting step will have no job."""
        async with self._db.transaction():
            await self._db.run(
                "settle_step", pipeline=str(pipeline_id), name=step, state=state, job_id=None, detail=detail
            )

    async def _whole(self, row: sqlite3.Row) -> Pipeline:
        steps = await self._db.all("pipeline_steps", pipeline=row["id"])
        return Pipeline(
            id=UUID(row["id"]),
            name=row["name"],
            owner=row["owner"],
            tags=tuple(json.loads(row["tags"])),
            created_at=rows.moment(row["created_at"]),
            steps=tuple(
                StepRecord(
                    step=Step.model_validate_json(step["spec"]),
                    state=StepState(step["state"]),
                    job_id=UUID(step["job_id"]) if step["job_id"] else None,
                    detail=step["detail"],
                )
                for step in steps
            ),
        )


class Schedules:
    """The part of the store about schedules."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def add(self, schedule: Schedule) -> Schedule:
        """Keep it."""
        async with self._db.transaction():
            await self._db.run(
                "insert_schedule",
                id=str(schedule.id),
                name=schedule.name,
                owner=schedule.owner,
                cron=schedule.cron,
                timezone=schedule.timezone,
                what=json.dumps({"kind": schedule.kind, "submission": schedule.submission}),
                overlap=schedule.overlap,
                created_at=schedule.created_at.timestamp(),
                next_at=schedule.next_at.timestamp(),
            )
        return schedule

    async def get(self, schedule_id: UUID) -> Schedule:
        """Raises: NotFound."""
        row = await self._db.one("schedule", id=str(schedule_id))
        if row is None:
            raise no_schedule(schedule_id)
        return _schedule(row)

    async def list(self) -> list[Schedule]:
        """Newest first."""
        return [_schedule(row) for row in await self._db.all("schedules")]

    async def due(self, now: datetime) -> Sequence[Schedule]:
        """Those whose time has come, the longest overdue first."""
        return [_schedule(row) for row in await self._db.all("due_schedules", now=now.timestamp())]

    async def next_at(self) -> datetime | None:
        """When the next one is due."""
        row = await self._db.one("next_schedule")
        return rows.moment_or_none(row["next_at"]) if row else None

    async def advance(self, schedule: Schedule, next_at: datetime, *, made: UUID | None, detail: str) -> None:
        """Done for this time; nothing if somebody else was faster."""
        async with self._db.transaction():
            await self._db.run(
                "advance_schedule",
                id=str(schedule.id),
                expected=schedule.next_at.timestamp(),
                next_at=next_at.timestamp(),
                last_at=schedule.next_at.timestamp(),
                made=str(made) if made else None,
                detail=detail,
            )

    async def enable(self, schedule_id: UUID, enabled: bool, *, next_at: datetime) -> None:
        """Go on submitting at ``next_at``, or no longer. Raises: NotFound."""
        async with self._db.transaction():
            changed = await self._db.run(
                "enable_schedule", id=str(schedule_id), enabled=enabled, next_at=next_at.timestamp()
            )
            if not changed:
                raise no_schedule(schedule_id)

    async def remove(self, schedule_id: UUID) -> None:
        """Forget it; what it submitted stays. Raises: NotFound."""
        async with self._db.transaction():
            if not await self._db.run("delete_schedule", id=str(schedule_id)):
                raise no_schedule(schedule_id)


def _schedule(row: sqlite3.Row) -> Schedule:
    what = json.loads(row["what"])
    return Schedule(
        id=UUID(row["id"]),
        name=row["name"],
        owner=row["owner"],
        cron=row["cron"],
        timezone=row["timezone"],
        overlap=row["overlap"],
        kind=what["kind"],
        submission=what["submission"],
        enabled=bool(row["enabled"]),
        created_at=rows.moment(row["created_at"]),
        next_at=rows.moment(row["next_at"]),
        last_at=rows.moment_or_none(row["last_at"]),
        made=UUID(row["made"]) if row["made"] else None,
        detail=row["detail"],
    )
