"""Jobs over HTTP."""

import asyncio
import json
import os
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import PurePath
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Body, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from orchestrator.access import Principal, Role
from orchestrator.api.auth import needs
from orchestrator.api.idempotency import IdempotencyKey, asked
from orchestrator.api.query import Dataset, Limit, Model, Offset
from orchestrator.api.state import Orchestrator, State, Who
from orchestrator.changes import changes_made, differences, in_force
from orchestrator.confined import open_beneath
from orchestrator.control import CheckpointRef, available_actions, require_kept
from orchestrator.domain import Artifact, Job, JobStatus, Params, Wait, best_checkpoint
from orchestrator.errors import InvalidInput, NotFound
from orchestrator.intake import admit, cloned, job_type_name, parse_params
from orchestrator.shelf import reference_to
from orchestrator.store import MAX_STEP, JobFilter
from orchestrator.store.paging import NEWEST_FIRST, WITH_CURSOR, Cursor, Sort
from orchestrator.usage import gpu_hours
from orchestrator.views import (
    ArtifactView,
    AttemptView,
    CheckpointView,
    CloneRequest,
    CommandView,
    DifferenceView,
    JobChanges,
    JobDetail,
    JobPage,
    JobSubmission,
    JobTypeView,
    JobView,
    ParameterChanges,
    TypedSubmission,
    job_view_fields,
)
from worker_image.contract.jobs import JOB_TYPES
from worker_image.contract.rundir import RunDir
from worker_image.contract.tracking import TrackingParams

router = APIRouter(prefix="/api", tags=["jobs"])

JobId = Annotated[UUID, Path(alias="id", description="The job's id.")]


class LearningRate(BaseModel):
    """Body of ``POST /api/jobs/{id}/learning-rate``."""

    model_config = ConfigDict(extra="forbid")

    lr: float = Field(ge=1e-6, le=0.1)


class ParameterRequest(BaseModel):
    """Body of ``POST /api/jobs/{id}/parameters``."""

    model_config = ConfigDict(extra="forbid")

    params: dict[str, Any] = Field(min_length=1)
    dry_run: bool = False
    """Only tell what differs."""


_ARCHIVED = {"false": False, "true": True, "any": None}


@router.get("/job-types")
@needs(Role.READ)
async def job_types() -> list[JobTypeView]:
    """Every job type with the JSON Schema of its parameters."""
    return [
        JobTypeView(
            type=name,
            title=model.title,
            description=(model.__doc__ or "").strip(),
            parameters=model.model_json_schema(),
            commands=sorted(model.commands),
            live=sorted(model.live),
            resumable=model.resumable,
            uses_gpu=model.uses_gpu,
        )
        for name, model in JOB_TYPES.items()
    ]


@router.post("/jobs", status_code=201)
@needs(Role.WRITE)
async def submit(
    orchestrator: Orchestrator, who: Who, submission: JobSubmission, key: IdempotencyKey = None
) -> JobDetail:
    """Queue a job. It is on disk before this answers."""
    submission = _submitted_by(who, submission)
    request = asked(who, key, submission.model_dump_json())
    # Looked up before admission: what the job names may be gone since the first time.
    if request is not None and (known := await orchestrator.control.submitted(request)) is not None:
        return await _detail(orchestrator, known)
    job = await admit(submission, orchestrator.inventory, orchestrator.shelf(who))
    if job.secrets:
        await asyncio.to_thread(orchestrator.vault.check, job.secrets, job.owner)
    return await _detail(orchestrator, await orchestrator.control.submit(job, request))


@router.post("/jobs/{type}", status_code=201)
@needs(Role.WRITE)
async def submit_type(
    orchestrator: Orchestrator,
    who: Who,
    type: Annotated[str, Path(description="Job type, in kebab or snake case.")],
    submission: TypedSubmission,
    key: IdempotencyKey = None,
) -> JobDetail:
    """Queue a job of the type in the path."""
    full = JobSubmission(
        type=job_type_name(type),
        **submission.model_dump(exclude={"resources", "retry"}),
        resources=submission.resources,
        retry=submission.retry,
    )
    return await submit(orchestrator, who, full, key)


def _submitted_by(who: Principal, submission: JobSubmission) -> JobSubmission:
    """The submission with its owner. Raises: Forbidden."""
    who.may_submit(submission.type.replace("-", "_"))
    return submission.model_copy(update={"owner": who.owner_for(submission.owner)})


@router.get("/jobs")
@needs(Role.READ)
async def jobs(
    orchestrator: Orchestrator,
    who: Who,
    status: Annotated[list[JobStatus] | None, Query(description="May be given several times.")] = None,
    type: Annotated[str | None, Query(description="Only those of this job type.")] = None,
    owner: Annotated[str | None, Query(description="Only those of this owner.")] = None,
    tag: Annotated[str | None, Query(description="Only those with this tag.")] = None,
    sweep: Annotated[UUID | None, Query(description="Only those of this sweep.")] = None,
    model: Model = None,
    dataset: Dataset = None,
    q: Annotated[str | None, Query(description="Part of a name, or the beginning of an id.")] = None,
    archived: Annotated[
        Literal["false", "true", "any"], Query(description="Those that were put aside, the others, or both.")
    ] = "false",
    limit: Limit = 50,
    offset: Offset = 0,
    sort: Annotated[Sort, Query(description="With a minus, the greatest or newest comes first.")] = NEWEST_FIRST,
    cursor: Annotated[
        str | None, Query(description="next_cursor of the page before: what comes after it, whatever is new.")
    ] = None,
) -> JobPage:
    """Jobs that match, newest first unless asked otherwise."""
    wanted = JobFilter(
        status=tuple(status or ()),
        type=type.replace("-", "_") if type else None,
        owner=owner,
        tag=tag,
        sweep=sweep,
        model=model,
        dataset=dataset,
        q=q,
        within_owner=who.owner,
        within_types=who.types,
        archived=_ARCHIVED[archived],
    )
    after = Cursor.parse(cursor) if cursor is not None else None
    found, total = await orchestrator.store.jobs(wanted, limit=limit, offset=offset, sort=sort, after=after)
    waits = await orchestrator.scheduler.waits_of(found)
    more = len(found) == limit and sort in WITH_CURSOR
    return JobPage(
        items=[JobView(**_fields(orchestrator, job, waits.get(job.id))) for job in found],
        total=total,
        next_cursor=str(Cursor.after(found[-1])) if more else None,
    )


@router.get("/queue")
@needs(Role.READ)
async def queue(orchestrator: Orchestrator, who: Who, limit: Limit = 50) -> JobPage:
    """Jobs that wait, in the order of their turns as of the last plan; who came since is only counted."""
    turns = orchestrator.scheduler.waits
    wanted = JobFilter(status=(JobStatus.QUEUED,), within_owner=who.owner, within_types=who.types)
    _, total = await orchestrator.store.jobs(wanted, limit=1)

    def within_reach() -> list[UUID]:
        return [job.id for job in turns.jobs() if who.covers(job.owner, job.shape.type)]

    found: list[Job] = []
    for job_id in await asyncio.to_thread(within_reach):
        if len(found) == limit:
            break
        # It may have been purged since.
        with suppress(NotFound):
            job = await orchestrator.store.job(job_id)
            if job.status is JobStatus.QUEUED:
                found.append(job)
    waits = await orchestrator.scheduler.waits_of(found)
    return JobPage(items=[JobView(**_fields(orchestrator, job, waits.get(job.id))) for job in found], total=total)


@router.get("/jobs/{id}")
@needs(Role.READ)
async def job(orchestrator: Orchestrator, job_id: JobId) -> JobDetail:
    """One job, with its attempts, its commands and what may be asked of it now."""
    return await _detail(orchestrator, await orchestrator.store.job(job_id))


@router.patch("/jobs/{id}")
@needs(Role.WRITE)
async def update(orchestrator: Orchestrator, job_id: JobId, changes: JobChanges) -> JobDetail:
    """Change its name, tags, priority, retries, or what its next attempt asks for."""
    return await _detail(orchestrator, await orchestrator.control.update(job_id, changes))


@router.post("/jobs/{id}/clone", status_code=201)
@needs(Role.WRITE)
async def clone(
    orchestrator: Orchestrator, who: Who, job_id: JobId, changes: CloneRequest, key: IdempotencyKey = None
) -> JobDetail:
    """Queue a new job like this one, with some things changed."""
    old = await orchestrator.store.job(job_id)
    require_kept(old, "clone")
    return await submit(orchestrator, who, cloned(old, changes), key)


@router.delete("/jobs/{id}", status_code=202)
@needs(Role.WRITE)
async def cancel(orchestrator: Orchestrator, job_id: JobId) -> JobDetail:
    """Kill the job. Cancelling a cancelled one changes nothing."""
    return await _detail(orchestrator, await orchestrator.control.cancel(job_id))


@router.post("/jobs/{id}/pause", status_code=202)
@needs(Role.WRITE)
async def pause(orchestrator: Orchestrator, job_id: JobId) -> JobDetail:
    """Write a checkpoint, exit and free the GPU."""
    return await _detail(orchestrator, await orchestrator.control.pause(job_id))


@router.post("/jobs/{id}/resume", status_code=202)
@needs(Role.WRITE)
async def resume(orchestrator: Orchestrator, job_id: JobId) -> JobDetail:
    """Queue a paused job again; it continues from its newest checkpoint."""
    return await _detail(orchestrator, await orchestrator.control.resume(job_id))


@router.post("/jobs/{id}/stop", status_code=202)
@needs(Role.WRITE)
async def stop(orchestrator: Orchestrator, job_id: JobId) -> JobDetail:
    """End the job with a final checkpoint and its artifacts. A paused job ends as it is; restart continues it."""
    return await _detail(orchestrator, await orchestrator.control.stop(job_id))


@router.post("/jobs/{id}/checkpoint", status_code=202)
@needs(Role.WRITE)
async def checkpoint(orchestrator: Orchestrator, job_id: JobId) -> JobDetail:
    """Write a checkpoint now and go on."""
    return await _detail(orchestrator, await orchestrator.control.checkpoint(job_id))


@router.post("/jobs/{id}/learning-rate", status_code=202)
@needs(Role.WRITE)
async def learning_rate(orchestrator: Orchestrator, job_id: JobId, body: LearningRate) -> JobDetail:
    """Change a job's peak learning rate, from its next step on."""
    return await _detail(orchestrator, await orchestrator.control.set_learning_rate(job_id, body.lr))


@router.post("/jobs/{id}/validate", status_code=202)
@needs(Role.WRITE)
async def validate(orchestrator: Orchestrator, job_id: JobId) -> JobDetail:
    """Measure on the held-out tokens now and go on."""
    return await _detail(orchestrator, await orchestrator.control.validate(job_id))


@router.post("/jobs/{id}/parameters", status_code=202)
@needs(Role.WRITE)
async def parameters(orchestrator: Orchestrator, job_id: JobId, body: ParameterRequest) -> ParameterChanges:
    """Have a job take up other parameters from its next step on; tells which it can, and which want a new job."""
    job = await orchestrator.store.job(job_id)
    now = in_force(job.params.model_dump(mode="json"), changes_made(await orchestrator.store.commands(job_id)))
    wanted = parse_params(job.type, now | body.params).model_dump(mode="json")
    found = differences(job.params, now, wanted)
    values = {item.name: item.wanted for item in found if item.applies == "now"}
    asked = bool(values) and not body.dry_run
    command_id = await orchestrator.control.set_parameters(job_id, values) if asked else None
    views = [DifferenceView(**asdict(item)) for item in found]
    return ParameterChanges(differences=views, command_id=command_id)


@router.post("/jobs/{id}/restart", status_code=201)
@needs(Role.WRITE)
async def restart(
    orchestrator: Orchestrator,
    who: Who,
    job_id: JobId,
    fresh: Annotated[bool, Body(embed=True, description="Start over instead of continuing.")] = False,
    checkpoint: Annotated[
        str | None, Body(embed=True, description="The checkpoint to continue from; the newest when empty.")
    ] = None,
    attempt: Annotated[
        int | None, Body(embed=True, ge=1, description="Whose checkpoint; the newest that has it when empty.")
    ] = None,
    params: Annotated[
        dict[str, Any] | None,
        Body(embed=True, description="Parameters to change: of one that continues, those that a running job takes up."),
    ] = None,
    key: IdempotencyKey = None,
) -> JobDetail:
    """Queue a new job with the same parameters; it continues from one of the old one's checkpoints."""
    request = asked(who, key, "restart", str(job_id), json.dumps([fresh, checkpoint, attempt, params], sort_keys=True))
    # Looked up first: the checkpoint may be gone since the first time.
    if request is not None and (known := await orchestrator.control.submitted(request)) is not None:
        return await _detail(orchestrator, known)
    changed = partial(_changed_for_restart, changes=params or {}, fresh=fresh)
    chosen = CheckpointRef(checkpoint, attempt) if checkpoint is not None else None
    return await _detail(
        orchestrator,
        await orchestrator.control.restart(job_id, fresh=fresh, checkpoint=chosen, changed=changed, asked=request),
    )


def _changed_for_restart(params: Params, changes: dict[str, Any], fresh: bool) -> Params:
    """Raises: InvalidInput: a parameter is no good, or shapes a training from its first step."""
    if not changes:
        return params
    before = params.model_dump(mode="json")
    changed = parse_params(params.type, before | changes)
    for item in differences(params, before, changed.model_dump(mode="json")):
        if item.applies == "new_job" and not fresh:
            raise InvalidInput(
                f"params.{item.name}: it shapes a training from its first step, so none continues with another",
                field=f"params.{item.name}",
                suggestion="start over (fresh), or clone the job",
            )
    return changed


@router.delete("/jobs/{id}/permanent", status_code=204)
@needs(Role.WRITE)
async def purge(orchestrator: Orchestrator, job_id: JobId) -> Response:
    """Delete an ended job with its log, checkpoints and artifacts."""
    await orchestrator.control.purge(job_id)
    return Response(status_code=204)


@router.get("/jobs/{id}/checkpoints")
@needs(Role.READ)
async def checkpoints(orchestrator: Orchestrator, job_id: JobId) -> list[CheckpointView]:
    """Checkpoints on disk, newest first."""
    await orchestrator.store.job(job_id)
    home = orchestrator.settings.home
    found = await orchestrator.store.checkpoints(job_id)
    best = best_checkpoint(found)
    return [
        CheckpointView(
            attempt=item.attempt,
            name=item.name,
            step=item.step,
            loss=item.loss,
            held_out_loss=item.held_out_loss,
            best=item == best,
            size_bytes=item.size_bytes,
            digest=item.digest,
            reason=item.reason,
            created_at=item.created_at,
            path=str(RunDir.of(home, job_id, item.attempt).checkpoints / item.name),
        )
        for item in found
    ]


@router.delete("/jobs/{id}/checkpoints/{name}", status_code=204)
@needs(Role.WRITE)
async def delete_checkpoint(
    orchestrator: Orchestrator,
    job_id: JobId,
    name: str,
    attempt: Annotated[int | None, Query(ge=1, le=MAX_STEP, description="The newest that has it when empty.")] = None,
) -> Response:
    """Delete a checkpoint that nothing continues from."""
    await orchestrator.control.delete_checkpoint(job_id, CheckpointRef(name, attempt))
    return Response(status_code=204)


@router.get("/jobs/{id}/artifacts")
@needs(Role.READ)
async def artifacts(orchestrator: Orchestrator, job_id: JobId) -> list[ArtifactView]:
    """Result files, newest attempt first."""
    await orchestrator.store.job(job_id)
    return [artifact_view(item) for item in await orchestrator.store.artifacts(job_id)]


@router.get("/jobs/{id}/artifacts/{path:path}", response_class=FileResponse)
@needs(Role.READ)
async def artifact(
    orchestrator: Orchestrator,
    job_id: JobId,
    path: str,
    attempt: Annotated[int | None, Query(ge=1, le=MAX_STEP, description="The newest that has it when empty.")] = None,
) -> FileResponse:
    """Download a result file."""
    for item in await orchestrator.store.artifacts(job_id):
        if item.path == path and attempt in (None, item.attempt):
            run_dir = RunDir.of(orchestrator.settings.home, job_id, item.attempt)
            with suppress(OSError):
                # The worker names it, so no link may lead out; and it may change what is there while we look.
                relative = f"{run_dir.artifacts.name}/{item.path}"
                return OpenFile(await asyncio.to_thread(open_beneath, run_dir.path, relative), PurePath(path).name)
    raise NotFound(
        f"job {job_id} has no artifact {path!r}", field="path", suggestion="GET .../artifacts lists what there is"
    )


class OpenFile(FileResponse):
    """Answers with a file that is open already, and closes it."""

    def __init__(self, descriptor: int, filename: str) -> None:
        # Its name in here: whatever becomes of the path that it was opened by, this is the same file.
        super().__init__(f"/proc/self/fd/{descriptor}", filename=filename, stat_result=os.fstat(descriptor))
        self._descriptor = descriptor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._descriptor)


def artifact_view(item: Artifact) -> ArtifactView:
    return ArtifactView(
        attempt=item.attempt,
        path=item.path,
        kind=item.kind,
        size_bytes=item.size_bytes,
        digest=item.digest,
        created_at=item.created_at,
        url=f"/api/jobs/{item.job_id}/artifacts/{item.path}?attempt={item.attempt}",
        reference=reference_to(item),
    )


def _fields(orchestrator: State, job: Job, wait: Wait | None) -> dict[str, object]:
    run_dir = RunDir.of(orchestrator.settings.home, job.id, job.attempts) if job.attempts else None
    fields = job_view_fields(job, str(run_dir.log) if run_dir else None, str(run_dir.artifacts) if run_dir else None)
    fields["wait"] = wait
    return fields


async def _detail(orchestrator: State, job: Job) -> JobDetail:
    waits = await orchestrator.scheduler.waits_of([job])
    attempts = await orchestrator.store.attempts(job.id) if job.attempts else []
    commands = await orchestrator.store.commands(job.id)
    hours, price = gpu_hours(attempts, datetime.now(UTC)), orchestrator.settings.gpu_hour_price
    has_tensorboard = isinstance(job.params, TrackingParams) and "tensorboard" in job.params.trackers
    board = orchestrator.settings.tensorboard_url if has_tensorboard else ""
    return JobDetail(
        **_fields(orchestrator, job, waits.get(job.id)),
        attempt_list=[AttemptView.of(item) for item in attempts],
        commands=[CommandView.model_validate(item) for item in commands],
        available_actions=available_actions(job),
        gpu_hours=round(hours, 4),
        cost=round(hours * price, 4) if price and hours else None,
        tensorboard_logdir=str(orchestrator.settings.runs / str(job.id)) if has_tensorboard else None,
        # Its runs are named by their paths below the directory that it shows.
        tensorboard_url=f"{board.rstrip('/')}/?runFilter={job.id}#timeseries" if board else None,
    )
