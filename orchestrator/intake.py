"""From what a user sent to a job that can run: parameters parsed, references resolved, impossible ones refused."""

import asyncio
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from orchestrator.access import DEFAULT_OWNER
from orchestrator.domain import Job, JobStatus, Params, Sweep
from orchestrator.errors import InvalidInput
from orchestrator.inventory import Inventory, model_shape
from orchestrator.pipelines import Pipeline, Step, references, sampled
from orchestrator.shelf import Shelf
from orchestrator.sweeps import points
from orchestrator.views import CloneRequest, JobSubmission, SweepSubmission
from worker_image.contract.activations import ActivationParams
from worker_image.contract.jobs import JOB_TYPES, TrainSaeParams, job_params
from worker_image.contract.model_shape import ModelShape

ARRAY_INDEX = "SAEFORGE_ARRAY_INDEX"
"""Environment variable that tells the containers of a sweep apart."""
_NAMED_FIELD = re.compile(r"^(?:Value error, )?(\w+): ")
_LAYER = re.compile(r"^layers\.(\d+)(?![\w])")
_RESIDUAL = re.compile(r"^layers\.\d+(:in|:out)?$")
_HOOKPOINT_FIELDS = {"hookpoint", "target_hookpoint", "crosscoder_hookpoints", "hookpoints"}


async def admit(submission: JobSubmission, inventory: Inventory, shelf: Shelf) -> Job:
    """Make the job.

    Raises:
        InvalidInput: naming the field at fault and what to do.
    """
    params = parse_params(submission.type, submission.params)
    # What it refers to lies on a disk that may be slow.
    trained = await shelf.fetch(params.type, [submission.params])
    inputs = await asyncio.to_thread(resolve, params, inventory, (), trained) if params.references() else {}
    return _made(submission, params, inputs)


async def admit_sweep(submission: SweepSubmission, inventory: Inventory, shelf: Shelf) -> tuple[Sweep, list[Job]]:
    """Make the jobs of a sweep, all of them or none.

    Raises:
        InvalidInput: naming the field at fault and what to do.
    """
    type_name = job_type_name(submission.type)
    fields = JOB_TYPES[type_name].model_fields
    if unknown := [name for name in submission.varied if name not in fields]:
        raise InvalidInput(f"{unknown[0]}: {type_name} has no such parameter", field=unknown[0])
    each = points(submission, submission.params, seeded="seed" in fields)
    sweep = Sweep(
        id=uuid4(),
        name=submission.name or f"{type_name.replace('_', '-')}-sweep",
        type=type_name,
        owner=submission.owner or DEFAULT_OWNER,
        varied=submission.varied or (("seed",) if "seed" in fields and submission.repeat > 1 else ()),
        created_at=datetime.now(UTC),
        max_running=submission.max_running,
    )
    trained = await shelf.fetch(type_name, each)
    return sweep, await asyncio.to_thread(_admitted_all, submission, sweep, each, inventory, trained)


def _admitted_all(
    submission: SweepSubmission,
    sweep: Sweep,
    each: list[dict[str, Any]],
    inventory: Inventory,
    trained: Mapping[str, Path],
) -> list[Job]:
    digits = len(str(len(each) - 1))
    jobs: list[Job] = []
    for index, params in enumerate(each):
        if "env" in JOB_TYPES[sweep.type].model_fields:
            params = params | {"env": {**params.get("env", {}), ARRAY_INDEX: str(index)}}
        parsed = parse_params(submission.type, params)
        job = _made(submission, parsed, resolve(parsed, inventory, (), trained))
        # Jobs start in the order of their making, which a clock need not tell apart.
        made = sweep.created_at + timedelta(microseconds=index)
        jobs.append(replace(job, name=f"{sweep.name}-{index:0{digits}d}", sweep=sweep.id, created_at=made))
    return jobs


def _made(submission: JobSubmission, params: Params, inputs: dict[str, str]) -> Job:
    job_id = uuid4()
    return Job(
        id=job_id,
        name=submission.name or f"{params.type.replace('_', '-')}-{str(job_id)[:8]}",
        params=params,
        resources=submission.resources,
        status=JobStatus.QUEUED,
        created_at=datetime.now(UTC),
        owner=submission.owner or DEFAULT_OWNER,
        priority=submission.priority,
        tags=tuple(dict.fromkeys(submission.tags)),
        inputs=inputs,
        retry=submission.retry,
        secrets=tuple(dict.fromkeys(submission.secrets)),
    )


async def check_step(step: Step, inventory: Inventory, shelf: Shelf) -> None:
    """See whether a step could run, as far as that can be told before its templates are filled in.

    Raises:
        InvalidInput: naming the step and the field at fault.
    """
    try:
        if references(step.params):
            parse_params(step.type, sampled(step.params))
        else:
            trained = await shelf.fetch(step.type, [step.params])
            await asyncio.to_thread(resolve, parse_params(step.type, step.params), inventory, (), trained)
    except InvalidInput as error:
        place = f"steps.{step.name}"
        raise InvalidInput(
            f"{place}: {error.message}", field=f"{place}.{error.field}", suggestion=error.suggestion
        ) from error


async def admit_step(
    step: Step,
    params: dict[str, Any],
    pipeline: Pipeline,
    inventory: Inventory,
    left: Mapping[str, str],
    shelf: Shelf,
) -> Job:
    """Make the job of a step.

    Args:
        params: the step's, with its templates filled in.
        left: name -> directory of each one of earlier steps that the job may read.

    Raises:
        InvalidInput: naming the field at fault and what to do.
    """
    parsed = parse_params(step.type, params)
    also = tuple(Path(folder) for folder in left.values())
    trained = await shelf.fetch(parsed.type, [params])
    inputs = await asyncio.to_thread(resolve, parsed, inventory, also, trained)
    return Job(
        id=uuid4(),
        name=f"{pipeline.name}-{step.name}",
        params=parsed,
        resources=step.resources,
        status=JobStatus.QUEUED,
        created_at=datetime.now(UTC),
        owner=pipeline.owner,
        priority=step.priority,
        tags=tuple(dict.fromkeys(pipeline.tags)),
        inputs=inputs | dict(left),
        retry=step.retry,
    )


def cloned(job: Job, changes: CloneRequest) -> JobSubmission:
    """What to submit for a new job like ``job`` with the changes."""
    return JobSubmission(
        type=job.type,
        params=job.params.model_dump(mode="json") | changes.params,
        name=changes.name or job.name,
        owner=changes.owner or job.owner,
        priority=job.priority if changes.priority is None else changes.priority,
        tags=list(job.tags) if changes.tags is None else changes.tags,
        resources=changes.resources or job.resources,
        retry=changes.retry or job.retry,
        secrets=list(job.secrets) if changes.secrets is None else changes.secrets,
    )


def job_type_name(name: str) -> str:
    """The job type meant by ``name``, in kebab or snake case.

    Raises:
        InvalidInput: there is no such job type.
    """
    snake = name.replace("-", "_")
    if snake not in JOB_TYPES:
        raise InvalidInput(
            f"type: there is no job type {name!r}", field="type", suggestion=f"one of: {', '.join(sorted(JOB_TYPES))}"
        )
    return snake


def parse_params(type_name: str, params: dict[str, Any]) -> Params:
    """Raises: InvalidInput."""
    name = job_type_name(type_name)
    if params.get("type", name) != name:
        raise InvalidInput(
            f"params.type: {params['type']!r} contradicts the type {name!r}",
            field="params.type",
            suggestion="leave it out",
        )
    try:
        return job_params.validate_python({**params, "type": name})
    except ValidationError as error:
        raise _invalid(error, name) from error


def _invalid(error: ValidationError, type_name: str) -> InvalidInput:
    # A misspelt name explains the missing one, so it is told first.
    first = min(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
    # The first part of the location is the union's tag.
    path = [str(part) for part in first["loc"][1:]]
    message = str(first["msg"])
    if not path and (named := _NAMED_FIELD.match(message)):
        path, message = [named[1]], message[named.end() :]
    field = ".".join(["params", *path])
    fields = JOB_TYPES[type_name].model_fields
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(path[0], fields, n=1)
        suggestion = f"did you mean {close[0]!r}?" if close else f"{type_name} takes: {', '.join(fields)}"
        return InvalidInput(f"{field}: there is no such parameter", field=field, suggestion=suggestion)
    known = fields.get(path[0]) if path else None
    meaning = f"{path[0]} is: {known.description}" if known and known.description else None
    return InvalidInput(f"{field}: {message}", field=field, suggestion=meaning)


def resolve(
    params: Params, inventory: Inventory, also: tuple[Path, ...] = (), trained: Mapping[str, Path] | None = None
) -> dict[str, str]:
    """Reference field -> the absolute path it means, or a hub id. Blocking.

    Args:
        also: directories that may be read beside the allowed roots.
        trained: what was fetched from the shelf.

    Raises:
        InvalidInput: naming the field at fault and what to do.
    """
    inputs: dict[str, str] = {}
    for field, kind in params.references().items():
        value: str = getattr(params, field)
        if kind == "sae" and trained and value in trained:
            inputs[field] = str(trained[value])
        else:
            inputs[field] = inventory.resolve(kind, f"params.{field}", value, network=params.network, also=also)
    # A hub id is on no disk yet.
    if isinstance(params, ActivationParams) and inputs["model"].startswith("/"):
        _check_shape(params, model_shape(inputs["model"]))
    return inputs


def _check_shape(params: ActivationParams, shape: ModelShape) -> None:
    """Refuse at once what cannot fit the model, where its configuration tells; the worker checks the rest."""
    for field, hookpoint in _hookpoints(params):
        asked = _LAYER.match(hookpoint)
        if asked and shape.layers is not None and int(asked[1]) >= shape.layers:
            raise InvalidInput(
                f"params.{field}: {params.model!r} has no {hookpoint!r}",
                field=f"params.{field}",
                suggestion=f"it has layers.0 to layers.{shape.layers - 1}",
            )
    if not isinstance(params, TrainSaeParams) or not _RESIDUAL.match(params.hookpoint) or shape.d_model is None:
        return
    if params.k > (d_sae := shape.d_model * params.expansion_factor):
        raise InvalidInput(
            f"params.k: {params.k} exceeds the {d_sae} latents",
            field="params.k",
            suggestion="lower k or raise expansion_factor",
        )


def _hookpoints(params: ActivationParams) -> Iterator[tuple[str, str]]:
    """Field and value of each place in the model that is named."""
    for field in type(params).model_fields.keys() & _HOOKPOINT_FIELDS:
        value = getattr(params, field)
        for hookpoint in value if isinstance(value, list) else [value] if value else []:
            yield field, hookpoint
