"""Jobs in steps: which may start, given how those before them ended, and what they are given of them. Pure."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestrator.domain import TERMINAL, JobStatus, Resources, RetryPolicy

Name = Annotated[str, Field(pattern=r"^[A-Za-z][\w-]*$", max_length=64)]
Condition = Literal["completed", "failed", "ended"]
"""How a step must have ended for another to start: well; badly (failed, stopped or cancelled); or either way."""

_TEMPLATE = re.compile(r"\$\{([A-Za-z][\w-]*)\.([a-z]+)(?:\.([\w./-]+))?\}")
_PATHS = frozenset({"artifacts", "checkpoint", "artifact"})
_MAY_NAME = {"artifacts": False, "checkpoint": False, "id": False, "results": True, "artifact": True}
"""What a template may ask of a step -> whether a name has to follow."""


class When(BaseModel):
    """A bound on a figure that an earlier step resulted in."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    step: Name
    result: str = Field(min_length=1, max_length=200)
    """The figure's name, e.g. "fvu"."""
    below: float | None = None
    above: float | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.below is None and self.above is None:
            raise ValueError("below: give a bound, below or above")
        return self

    def holds(self, value: float | None) -> bool:
        """Whether a figure, or the want of it, satisfies it."""
        if value is None:
            return False
        return (self.below is None or value < self.below) and (self.above is None or value > self.above)


class Step(BaseModel):
    """One job of a pipeline."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Name
    type: str
    params: dict[str, Any] = {}
    """Parameters of that type. Strings may hold templates: ${step.artifacts}, ${step.artifact.PATH},
    ${step.checkpoint}, ${step.id}, ${step.results.NAME}."""
    needs: dict[Name, Condition] = {}
    """Steps that must have ended before, and how."""
    when: tuple[When, ...] = ()
    """Bounds on figures of those steps; the step is skipped unless all of them hold."""
    priority: int = Field(default=0, ge=-1000, le=1000)
    resources: Resources = Resources()
    retry: RetryPolicy = RetryPolicy()


class PipelineSubmission(BaseModel):
    """Body of ``POST /api/pipelines``."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = Field(default="pipeline", min_length=1, max_length=200)
    owner: str | None = Field(default=None, min_length=1, max_length=100)
    """Who it belongs to; the key's owner, or else "default", when empty."""
    tags: tuple[str, ...] = Field(default=(), max_length=50)
    """Of every job."""
    steps: tuple[Step, ...] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [step.name for step in self.steps]
        if len(set(names)) < len(names):
            raise ValueError(f"steps: {next(name for name in names if names.count(name) > 1)!r} is there twice")
        for step in self.steps:
            if unknown := step.needs.keys() - set(names):
                raise ValueError(f"steps.{step.name}.needs: there is no step {min(unknown)!r}")
        graph = {step.name: step.needs.keys() for step in self.steps}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            raise ValueError(f"steps: they wait for each other: {' -> '.join(error.args[1])}") from None
        for step in self.steps:
            earlier = _before(step.name, graph)
            for reference in (*references(step.params), *(bound.step for bound in step.when)):
                if reference not in earlier:
                    raise ValueError(
                        f"steps.{step.name}: uses {reference!r}, which need not have ended before; add it to its needs"
                    )
        return self


class StepState(StrEnum):
    """Where a step stands."""

    WAITING = "waiting"
    """For the steps that it needs."""
    STARTED = "started"
    """Its job was queued; the job tells the rest."""
    SKIPPED = "skipped"
    """Its conditions cannot be met any more."""
    REFUSED = "refused"
    """What it was filled in with is no valid job."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a step's job leaves to those after it."""

    job_id: UUID
    status: JobStatus
    results: Mapping[str, float]
    artifacts: str
    """Directory of the newest attempt's artifacts."""
    checkpoint: str | None
    """Directory of the newest checkpoint."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step of a pipeline as it is kept."""

    step: Step
    state: StepState
    job_id: UUID | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Some jobs in steps."""

    id: UUID
    name: str
    owner: str
    tags: tuple[str, ...]
    created_at: datetime
    steps: tuple[StepRecord, ...]


class TemplateError(ValueError):
    """A template asks for what its step did not leave."""


def references(value: Any) -> set[str]:
    """The steps that the templates in a value name.

    Raises:
        ValueError: a template asks for something no step has.
    """
    found: set[str] = set()
    for text in _strings(value):
        for step, what, name in _TEMPLATE.findall(text):
            if what not in _MAY_NAME or bool(name) is not _MAY_NAME[what]:
                offered = ", ".join(f"${{{step}.{key}{'.NAME' if named else ''}}}" for key, named in _MAY_NAME.items())
                raise ValueError(f"steps: no template ${{{step}.{what}}}; there are {offered}")
            found.add(step)
    return found


def filled(value: Any, outputs: Mapping[str, Outputs]) -> Any:
    """The value with its templates replaced.

    Raises:
        TemplateError: the step did not leave what one of them asks for.
    """
    if isinstance(value, str):
        return _TEMPLATE.sub(lambda found: _meaning(found, outputs), value)
    if isinstance(value, Mapping):
        return {key: filled(item, outputs) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [filled(item, outputs) for item in value]
    return value


def sampled(value: Any) -> Any:
    """The value with something of the right kind in place of its templates, to see whether the rest of it is valid."""
    if isinstance(value, str):
        return _TEMPLATE.sub(lambda found: "1" if found[2] == "results" else "/sample", value)
    if isinstance(value, Mapping):
        return {key: sampled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [sampled(item) for item in value]
    return value


def folders(value: Any, outputs: Mapping[str, Outputs]) -> dict[str, str]:
    """Name -> directory of every directory of an earlier step that the templates in a value lead into."""
    found: dict[str, str] = {}
    for text in _strings(value):
        for step, what, _ in _TEMPLATE.findall(text):
            if what in _PATHS:
                kind = "checkpoint" if what == "checkpoint" else "artifacts"
                path = outputs[step].checkpoint if kind == "checkpoint" else outputs[step].artifacts
                if path is not None:
                    found[f"{step}.{kind}"] = path
    return found


def decision(step: Step, states: Mapping[str, StepState], outputs: Mapping[str, Outputs]) -> StepState | str:
    """What becomes of a waiting step: ``STARTED`` when it may start, a reason when it never will, else ``WAITING``.

    Args:
        states: of every step of the pipeline.
        outputs: of every step that has a job.
    """
    for name, condition in step.needs.items():
        if states[name] in (StepState.SKIPPED, StepState.REFUSED):
            return f"{name} was {states[name]}"
        ended = outputs.get(name)
        if ended is None or ended.status not in TERMINAL:
            continue
        well = ended.status is JobStatus.COMPLETED
        if condition != "ended" and well is not (condition == "completed"):
            return f"{name} {ended.status}, and it was to have {condition}"
    if any(name not in outputs or outputs[name].status not in TERMINAL for name in step.needs):
        return StepState.WAITING
    for bound in step.when:
        value = outputs[bound.step].results.get(bound.result)
        if not bound.holds(value):
            told = "none" if value is None else f"{value:g}"
            return f"{bound.step}'s {bound.result} is {told}"
    return StepState.STARTED


def _meaning(found: re.Match[str], outputs: Mapping[str, Outputs]) -> str:
    step, what, name = found.groups()
    left = outputs[step]
    if what == "id":
        return str(left.job_id)
    if what == "artifacts":
        return left.artifacts
    if what == "artifact":
        if ".." in name.split("/"):
            raise TemplateError(f"{found[0]}: leads out of the artifacts of {step}")
        return f"{left.artifacts}/{name}"
    if what == "checkpoint":
        if left.checkpoint is None:
            raise TemplateError(f"{found[0]}: {step} left no checkpoint")
        return left.checkpoint
    if name not in left.results:
        known = ", ".join(sorted(left.results)) or "none"
        raise TemplateError(f"{found[0]}: {step} has no such result; it has: {known}")
    return f"{left.results[name]:.17g}"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _before(name: str, graph: Mapping[str, Iterable[str]]) -> Collection[str]:
    """Every step that must have ended before this one starts."""
    found: set[str] = set()
    left = list(graph[name])
    while left:
        step = left.pop()
        if step not in found:
            found.add(step)
            left.extend(graph[step])
    return found
