"""Sweeps over HTTP: many jobs from one request."""

import asyncio
import math
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query

from orchestrator.access import Role
from orchestrator.api.auth import needs
from orchestrator.api.idempotency import IdempotencyKey, asked
from orchestrator.api.query import Limit, Offset
from orchestrator.api.state import Orchestrator, State, Who
from orchestrator.domain import Job, Sweep
from orchestrator.intake import admit_sweep
from orchestrator.store import JobFilter
from orchestrator.store.sweeps import unknown
from orchestrator.sweeps import MOST_JOBS
from orchestrator.views import (
    SweepActed,
    SweepChanges,
    SweepPage,
    SweepPoint,
    SweepResults,
    SweepSubmission,
    SweepView,
)

router = APIRouter(prefix="/api/sweeps", tags=["sweeps"])

SweepId = Annotated[UUID, Path(alias="sweep", description="The sweep's id.")]


async def _found(orchestrator: Orchestrator, who: Who, sweep_id: SweepId) -> Sweep:
    """The sweep that is meant. Raises: NotFound."""
    found = await orchestrator.store.sweeps.get(sweep_id)
    if not who.covers(found.owner, found.type):
        raise unknown(sweep_id)
    return found


Found = Annotated[Sweep, Depends(_found)]


@router.post("", status_code=201)
@needs(Role.WRITE)
async def submit(
    orchestrator: Orchestrator, who: Who, submission: SweepSubmission, key: IdempotencyKey = None
) -> SweepView:
    """Queue one job for every point. All of them are on disk before this answers, or none."""
    who.may_submit(submission.type.replace("-", "_"))
    submission = submission.model_copy(update={"owner": who.owner_for(submission.owner)})
    request = asked(who, key, "sweep", submission.model_dump_json())
    # Looked up before admission: what the sweep names may be gone since the first time.
    if request is not None and (known := await orchestrator.store.sweeps.submitted(request)) is not None:
        return await _view(orchestrator, known)
    sweep, jobs = await admit_sweep(submission, orchestrator.inventory, orchestrator.shelf(who))
    await asyncio.to_thread(orchestrator.vault.check, submission.secrets, sweep.owner)
    return await _view(orchestrator, await orchestrator.control.submit_sweep(sweep, jobs, request))


@router.get("")
@needs(Role.READ)
async def sweeps(
    orchestrator: Orchestrator,
    who: Who,
    limit: Limit = 50,
    offset: Offset = 0,
) -> SweepPage:
    """Sweeps, newest first."""
    found = await orchestrator.store.sweeps.list(limit=limit, offset=offset, who=who)
    return SweepPage(items=[await _view(orchestrator, sweep) for sweep in found])


@router.get("/{sweep}")
@needs(Role.READ)
async def sweep(orchestrator: Orchestrator, found: Found) -> SweepView:
    """One sweep, with how its jobs stand. GET /api/jobs?sweep= lists them."""
    return await _view(orchestrator, found)


@router.patch("/{sweep}")
@needs(Role.WRITE)
async def change(orchestrator: Orchestrator, found: Found, changes: SweepChanges) -> SweepView:
    """Let more or fewer of its jobs run at once; those that run go on."""
    return await _view(orchestrator, await orchestrator.control.limit_sweep(found.id, changes.max_running))


@router.get("/{sweep}/results")
@needs(Role.READ)
async def results(
    orchestrator: Orchestrator,
    found: Found,
    metric: Annotated[str | None, Query(description="Order by this figure; jobs without it come last.")] = None,
    best: Annotated[Literal["lowest", "highest"], Query(description="Which of its values is the best.")] = "lowest",
) -> SweepResults:
    """What each job was given and what came of it."""
    jobs, _ = await orchestrator.store.jobs(JobFilter(sweep=found.id), limit=MOST_JOBS)
    items = [_point(found, job) for job in reversed(jobs)]
    if metric is not None:
        sign = 1 if best == "lowest" else -1
        items.sort(key=lambda item: sign * item.values[metric] if metric in item.values else math.inf)
    return SweepResults(items=items)


@router.post("/{sweep}/{action}", status_code=202)
@needs(Role.WRITE)
async def act(
    orchestrator: Orchestrator, found: Found, action: Literal["cancel", "pause", "resume", "stop"]
) -> SweepActed:
    """Do the same to all of its jobs that allow it."""
    done, left = await orchestrator.control.act_on_sweep(found.id, action)
    return SweepActed(done=done, left=left)


def _point(sweep: Sweep, job: Job) -> SweepPoint:
    params = job.params.model_dump(mode="json", include=set(sweep.varied))
    return SweepPoint(
        job_id=job.id, name=job.name, status=job.status, params=params, values=job.results or job.metrics or {}
    )


async def _view(orchestrator: State, sweep: Sweep) -> SweepView:
    return SweepView(
        id=sweep.id,
        name=sweep.name,
        type=sweep.type,
        owner=sweep.owner,
        varied=list(sweep.varied),
        max_running=sweep.max_running,
        created_at=sweep.created_at,
        jobs=await orchestrator.store.sweeps.counts(sweep.id),
    )
