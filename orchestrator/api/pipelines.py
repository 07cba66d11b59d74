"""Pipelines and schedules over HTTP."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Path, Response
from pydantic import ValidationError

from orchestrator.access import Principal, Role
from orchestrator.api.auth import needs
from orchestrator.api.idempotency import IdempotencyKey, asked
from orchestrator.api.query import Limit, Offset
from orchestrator.api.state import Orchestrator, State, Who
from orchestrator.conductor import new_pipeline
from orchestrator.domain import TERMINAL, JobStatus
from orchestrator.errors import InvalidInput, NotFound
from orchestrator.intake import admit
from orchestrator.pipelines import Pipeline, PipelineSubmission, StepState
from orchestrator.schedules import Schedule, ScheduleSubmission, next_time
from orchestrator.store.pipelines import no_pipeline, no_schedule
from orchestrator.views import (
    JobSubmission,
    PipelinePage,
    PipelineView,
    ScheduleChanges,
    SchedulePage,
    ScheduleView,
    StepView,
)

router = APIRouter(prefix="/api", tags=["pipelines"])


async def _pipeline(
    orchestrator: Orchestrator, who: Who, pipeline_id: Annotated[UUID, Path(alias="pipeline")]
) -> Pipeline:
    """Raises: NotFound."""
    found = await orchestrator.store.pipelines.get(pipeline_id)
    if not _mine(who, found):
        raise no_pipeline(pipeline_id)
    return found


async def _schedule(
    orchestrator: Orchestrator, who: Who, schedule_id: Annotated[UUID, Path(alias="schedule")]
) -> Schedule:
    """Raises: NotFound."""
    found = await orchestrator.store.schedules.get(schedule_id)
    if not _reaches(who, found):
        raise no_schedule(schedule_id)
    return found


ThisPipeline = Annotated[Pipeline, Depends(_pipeline)]
ThisSchedule = Annotated[Schedule, Depends(_schedule)]


@router.post("/pipelines", status_code=201)
@needs(Role.WRITE)
async def submit(
    orchestrator: Orchestrator, who: Who, submission: PipelineSubmission, key: IdempotencyKey = None
) -> PipelineView:
    """Keep jobs in steps; each one is queued once the steps that it needs have ended."""
    _may_submit(who, submission)
    owner = who.owner_for(submission.owner)
    request = asked(who, key, "pipeline", owner, submission.model_dump_json())
    # Looked up before it is checked: what its steps name may be gone since the first time.
    made = await orchestrator.store.pipelines.submitted(request) if request is not None else None
    if made is None:
        pipeline = await new_pipeline(submission, orchestrator.inventory, orchestrator.shelf(who), owner=owner)
        made = await orchestrator.store.pipelines.submit(pipeline, request)
    await orchestrator.conductor.advance(made)
    return await _view(orchestrator, await orchestrator.store.pipelines.get(made))


@router.get("/pipelines")
@needs(Role.READ)
async def pipelines(
    orchestrator: Orchestrator,
    who: Who,
    limit: Limit = 50,
    offset: Offset = 0,
) -> PipelinePage:
    """Pipelines, newest first."""
    found = await orchestrator.store.pipelines.list(limit=limit, offset=offset, who=who)
    return PipelinePage(items=[await _view(orchestrator, item) for item in found])


@router.get("/pipelines/{pipeline}")
@needs(Role.READ)
async def pipeline(orchestrator: Orchestrator, found: ThisPipeline) -> PipelineView:
    """One pipeline, with its steps and their jobs."""
    return await _view(orchestrator, found)


@router.delete("/pipelines/{pipeline}", status_code=202)
@needs(Role.WRITE)
async def cancel(orchestrator: Orchestrator, found: ThisPipeline) -> PipelineView:
    """Start no further step, and cancel the jobs that have not ended."""
    await orchestrator.conductor.cancel(found.id)
    return await _view(orchestrator, await orchestrator.store.pipelines.get(found.id))


@router.post("/schedules", status_code=201)
@needs(Role.WRITE)
async def add_schedule(orchestrator: Orchestrator, who: Who, submission: ScheduleSubmission) -> ScheduleView:
    """Submit a job or a pipeline again and again. What it submits is checked now, and each time anew."""
    owner = who.owner_for(submission.owner)
    await _check(orchestrator, who, submission)
    now = datetime.now(UTC)
    schedule = Schedule(
        id=uuid4(),
        name=submission.name,
        owner=owner,
        cron=submission.cron,
        timezone=submission.timezone,
        overlap=submission.overlap,
        kind=submission.kind,
        submission=submission.submission,
        enabled=True,
        created_at=now,
        next_at=next_time(submission.cron, submission.timezone, now),
    )
    await orchestrator.store.schedules.add(schedule)
    orchestrator.broker.ring()
    return ScheduleView.model_validate(schedule)


@router.get("/schedules")
@needs(Role.READ)
async def schedules(orchestrator: Orchestrator, who: Who) -> SchedulePage:
    """Schedules, newest first."""
    found = await orchestrator.store.schedules.list()
    return SchedulePage(items=[ScheduleView.model_validate(item) for item in found if _reaches(who, item)])


@router.get("/schedules/{schedule}")
@needs(Role.READ)
async def schedule(orchestrator: Orchestrator, found: ThisSchedule) -> ScheduleView:
    """One schedule, with when it submits next and what came of the last time."""
    return ScheduleView.model_validate(found)


@router.patch("/schedules/{schedule}")
@needs(Role.WRITE)
async def enable_schedule(orchestrator: Orchestrator, found: ThisSchedule, changes: ScheduleChanges) -> ScheduleView:
    """Have it go on, or rest."""
    next_at = next_time(found.cron, found.timezone, datetime.now(UTC))
    await orchestrator.store.schedules.enable(found.id, changes.enabled, next_at=next_at)
    orchestrator.broker.ring()
    return ScheduleView.model_validate(replace(found, enabled=changes.enabled, next_at=next_at))


@router.delete("/schedules/{schedule}", status_code=204)
@needs(Role.WRITE)
async def remove_schedule(orchestrator: Orchestrator, found: ThisSchedule) -> Response:
    """Forget it; what it submitted stays."""
    await orchestrator.store.schedules.remove(found.id)
    return Response(status_code=204)


async def _check(orchestrator: State, who: Principal, submission: ScheduleSubmission) -> None:
    """Raises: InvalidInput: naming the field of the submission at fault. Forbidden."""
    try:
        if submission.kind == "pipeline":
            steps = PipelineSubmission.model_validate(submission.submission)
            _may_submit(who, steps)
            await new_pipeline(steps, orchestrator.inventory, orchestrator.shelf(who), owner=submission.owner or "")
        else:
            job = JobSubmission.model_validate(submission.submission)
            who.may_submit(job.type.replace("-", "_"))
            await admit(job, orchestrator.inventory, orchestrator.shelf(who))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["submission", *(str(part) for part in first["loc"])])
        raise InvalidInput(f"{where}: {first['msg'].removeprefix('Value error, ')}", field=where) from error
    except InvalidInput as error:
        raise InvalidInput(error.message, field=f"submission.{error.field}", suggestion=error.suggestion) from error


def _may_submit(who: Principal, submission: PipelineSubmission) -> None:
    """Raises: Forbidden."""
    for step in submission.steps:
        who.may_submit(step.type.replace("-", "_"))


def _mine(who: Principal, found: Pipeline) -> bool:
    return all(who.covers(found.owner, record.step.type.replace("-", "_")) for record in found.steps)


def _reaches(who: Principal, found: Schedule) -> bool:
    """Whether all that it submits is within somebody's reach."""
    submitted = found.submission["steps"] if found.kind == "pipeline" else [found.submission]
    return all(who.covers(found.owner, item["type"].replace("-", "_")) for item in submitted)


async def _view(orchestrator: State, found: Pipeline) -> PipelineView:
    statuses: dict[str, JobStatus | None] = {}
    details: dict[str, str] = {}
    for record in found.steps:
        statuses[record.step.name], details[record.step.name] = None, record.detail
        if record.job_id is not None:
            with suppress(NotFound):
                job = await orchestrator.store.job(record.job_id)
                statuses[record.step.name] = job.status
                if job.failure is not None:
                    details[record.step.name] = job.failure.message
    return PipelineView(
        id=found.id,
        name=found.name,
        owner=found.owner,
        tags=list(found.tags),
        created_at=found.created_at,
        status=_status(found, statuses),
        steps=[
            StepView(
                name=record.step.name,
                type=record.step.type,
                needs=dict(record.step.needs),
                state=record.state,
                detail=details[record.step.name],
                job_id=record.job_id,
                status=statuses[record.step.name],
            )
            for record in found.steps
        ],
    )


def _status(
    found: Pipeline, statuses: Mapping[str, JobStatus | None]
) -> Literal["running", "completed", "failed", "cancelled"]:
    states = {record.state for record in found.steps}
    known = {status for status in statuses.values() if status is not None}
    if StepState.WAITING in states or known - TERMINAL:
        return "running"
    if JobStatus.FAILED in known or StepState.REFUSED in states:
        return "failed"
    if known & {JobStatus.CANCELLED, JobStatus.STOPPED} or (states == {StepState.SKIPPED}):
        return "cancelled"
    return "completed"
