"""Submits what others have to wait for: the steps of pipelines, and what schedules bring.

Nothing is kept in memory: what to do follows from what is stored, so a conductor that takes over after a crash goes on
where the one before it was, and nothing is submitted twice.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4, uuid5

from pydantic import ValidationError

from orchestrator.broker import Broker
from orchestrator.control import Control
from orchestrator.domain import TERMINAL, Job, JobStatus
from orchestrator.errors import DiskFull, NotFound, OrchestratorError, QuotaExceeded, StateConflict
from orchestrator.intake import admit, admit_step, check_step
from orchestrator.inventory import Inventory
from orchestrator.pipelines import (
    Outputs,
    Pipeline,
    PipelineSubmission,
    StepRecord,
    StepState,
    TemplateError,
    decision,
    filled,
    folders,
)
from orchestrator.schedules import Schedule, next_time
from orchestrator.settings import Settings
from orchestrator.shelf import Shelf, reach_of
from orchestrator.store import Store
from orchestrator.store.submissions import Asked
from orchestrator.supervisor import newest_checkpoint
from orchestrator.views import JobSubmission
from worker_image.contract.rundir import RunDir

logger = logging.getLogger(__name__)

LOOK_S = 10.0
"""Seconds between looks where no bell rings."""
REST_S = 0.2
"""Seconds between looks where it does."""


async def new_pipeline(
    submission: PipelineSubmission,
    inventory: Inventory,
    shelf: Shelf,
    *,
    owner: str,
    pipeline_id: UUID | None = None,
) -> Pipeline:
    """A pipeline whose steps could run as far as that can be told before their templates are filled in.

    Raises:
        InvalidInput: naming the step and the field at fault.
    """
    for step in submission.steps:
        await check_step(step, inventory, shelf)
    return Pipeline(
        id=pipeline_id or uuid4(),
        name=submission.name,
        owner=owner,
        tags=submission.tags,
        created_at=datetime.now(UTC),
        steps=tuple(StepRecord(step, StepState.WAITING) for step in submission.steps),
    )


class Conductor:
    """Advances pipelines and schedules for as long as it runs."""

    def __init__(
        self, *, store: Store, control: Control, inventory: Inventory, broker: Broker, settings: Settings
    ) -> None:
        self._store, self._control, self._inventory = store, control, inventory
        self._broker, self._settings = broker, settings

    async def run(self) -> None:
        """Look whenever something happened or is due, for ever."""
        while True:
            news = self._broker.listen()
            try:
                await self.look(datetime.now(UTC))
            except DiskFull as error:
                logger.warning("pipelines and schedules wait: %s", error)
            due = await self._store.schedules.next_at()
            seconds = LOOK_S if due is None else min(LOOK_S, max((due - datetime.now(UTC)).total_seconds(), 0.0))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await news.wait()
            # The bell rings for every metric of every job; what is waited for here is rarer.
            await asyncio.sleep(REST_S)

    async def look(self, now: datetime) -> None:
        """Submit what can be submitted now."""
        for schedule in await self._store.schedules.due(now):
            await self._submit(schedule, now)
        for pipeline_id in await self._store.pipelines.waiting():
            await self.advance(pipeline_id)

    # --- pipelines

    async def advance(self, pipeline_id: UUID) -> None:
        """Start the steps that may start, and give up those that never will."""
        again = True
        while again:
            again = False
            pipeline = await self._store.pipelines.get(pipeline_id)
            states = {record.step.name: record.state for record in pipeline.steps}
            outputs = {
                record.step.name: await self._outputs(record.job_id) for record in pipeline.steps if record.job_id
            }
            for record in pipeline.steps:
                if record.state is not StepState.WAITING:
                    continue
                decided = decision(record.step, states, outputs)
                if decided is StepState.STARTED:
                    await self._start(pipeline, record, outputs)
                elif not isinstance(decided, StepState):
                    await self._store.pipelines.end(pipeline.id, record.step.name, StepState.SKIPPED, decided)
                    # Another step may have waited for this one.
                    again = True

    async def _start(self, pipeline: Pipeline, record: StepRecord, outputs: dict[str, Outputs]) -> None:
        step = record.step
        try:
            params = filled(step.params, outputs)
            left = folders(step.params, outputs)
            job = await admit_step(step, params, pipeline, self._inventory, left, self._shelf(pipeline.owner))
        except (TemplateError, OrchestratorError) as error:
            await self._store.pipelines.end(pipeline.id, step.name, StepState.REFUSED, str(error))
            return
        # A full queue is no verdict on the step: it goes on waiting, and is looked at again.
        try:
            await self._control.start_step(pipeline.id, step.name, job)
        except QuotaExceeded:
            pass
        except StateConflict as error:
            # What it was to read was deleted since it was looked up.
            await self._store.pipelines.end(pipeline.id, step.name, StepState.REFUSED, str(error))

    async def _outputs(self, job_id: UUID) -> Outputs:
        """What a step's job leaves; a job that was purged has left nothing."""
        try:
            job = await self._store.job(job_id)
        except NotFound:
            return Outputs(job_id, JobStatus.CANCELLED, {}, "", None)
        artifacts = RunDir.of(self._settings.home, job_id, max(job.attempts, 1)).artifacts
        checkpoint = await newest_checkpoint(self._store, self._settings.home, job_id)
        return Outputs(job_id, job.status, job.results or {}, str(artifacts), str(checkpoint) if checkpoint else None)

    async def cancel(self, pipeline_id: UUID) -> None:
        """Start no further step, and cancel the jobs that have not ended."""
        pipeline = await self._store.pipelines.get(pipeline_id)
        for record in pipeline.steps:
            if record.state is StepState.WAITING:
                await self._store.pipelines.end(pipeline_id, record.step.name, StepState.SKIPPED, "cancelled")
        # Read again: a step may have started meanwhile, and cannot any more.
        for record in (await self._store.pipelines.get(pipeline_id)).steps:
            if record.job_id is not None:
                with suppress(OrchestratorError):
                    await self._control.cancel(record.job_id)
        self._broker.ring()

    # --- schedules

    async def _submit(self, schedule: Schedule, now: datetime) -> None:
        next_at = next_time(schedule.cron, schedule.timezone, now)
        if schedule.overlap == "skip" and schedule.made is not None and await self._lives(schedule):
            await self._store.schedules.advance(
                schedule, next_at, made=None, detail="left out: what was submitted before has not ended"
            )
            return
        # The same id however often this is begun, so that a crash before the next line submits nothing twice.
        made_id = uuid5(schedule.id, schedule.next_at.isoformat())
        try:
            made = await (self._pipeline if schedule.kind == "pipeline" else self._job)(schedule, made_id)
        except DiskFull:
            raise
        except (OrchestratorError, ValidationError) as error:
            await self._store.schedules.advance(schedule, next_at, made=None, detail=f"refused: {error}")
            return
        await self._store.schedules.advance(schedule, next_at, made=made, detail="submitted")

    async def _job(self, schedule: Schedule, made_id: UUID) -> UUID:
        submission = JobSubmission.model_validate(schedule.submission)
        submission = submission.model_copy(update={"owner": schedule.owner})
        job = await admit(submission, self._inventory, self._shelf(schedule.owner))
        asked = Asked(f"schedule {schedule.id}: {made_id}", digest="")
        kept: Job = await self._control.submit(replace(job, id=made_id), asked)
        return kept.id

    async def _pipeline(self, schedule: Schedule, made_id: UUID) -> UUID:
        submission = PipelineSubmission.model_validate(schedule.submission)
        shelf = self._shelf(schedule.owner)
        pipeline = await new_pipeline(submission, self._inventory, shelf, owner=schedule.owner, pipeline_id=made_id)
        return await self._store.pipelines.submit(pipeline)

    def _shelf(self, owner: str) -> Shelf:
        return Shelf(self._store, self._settings.home, reach_of(owner))

    async def _lives(self, schedule: Schedule) -> bool:
        """Whether what it submitted the last time has not ended."""
        assert schedule.made is not None
        with suppress(NotFound):
            if schedule.kind == "job":
                return (await self._store.job(schedule.made)).status not in TERMINAL
            pipeline = await self._store.pipelines.get(schedule.made)
            if any(record.state is StepState.WAITING for record in pipeline.steps):
                return True
            left = [await self._outputs(record.job_id) for record in pipeline.steps if record.job_id]
            return any(each.status not in TERMINAL for each in left)
        return False
