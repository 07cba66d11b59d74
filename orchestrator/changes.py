"""Changes of a job's parameters once it is submitted: what can be taken up, what was, and what differs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.domain import Params
from orchestrator.store import StoredCommand
from worker_image.contract.commands import AppliedChange, ParameterValue, SetLearningRate, SetParameters
from worker_image.contract.commands import command as command_adapter
from worker_image.contract.jobs import JobType


@dataclass(frozen=True, slots=True)
class Difference:
    """One parameter that is asked to be another."""

    name: str
    now: Any
    """As it is in force: the job's, or what a command made of it since."""
    wanted: Any
    applies: Literal["now", "new_job"]
    """``now``: the job takes it up from its next step on. ``new_job``: it shapes the training from its first step, so
    it wants a new one."""


def changes_made(commands: Iterable[StoredCommand]) -> tuple[AppliedChange, ...]:
    """The changes of parameters that took effect, in the order they were asked for.

    Less those that were overtaken: what was made before at a later step was made by an attempt whose steps were lost,
    and is not what was wanted last.
    """
    made: list[AppliedChange] = []
    for stored in commands:
        if stored.status == "applied" and stored.type in ("set_learning_rate", "set_parameters"):
            change = AppliedChange(id=stored.id, step=stored.step or 0, values=_values(stored))
            made = [left for before in made if (left := _beside(before, change)) is not None] + [change]
    return tuple(made)


def _beside(before: AppliedChange, change: AppliedChange) -> AppliedChange | None:
    """What is still to be made of a change when another one was made since; None when nothing is."""
    if before.step <= change.step:
        return before
    left = {name: value for name, value in before.values.items() if name not in change.values}
    return before.model_copy(update={"values": left}) if left else None


def in_force(params: Mapping[str, Any], changes: Iterable[AppliedChange]) -> dict[str, Any]:
    """A job's parameters with what became of them while it ran."""
    now = dict(params)
    for change in changes:
        now |= change.values
    return now


def taken_up(params: Params, changes: Iterable[AppliedChange]) -> Params:
    """The parameters as a job has them that made the changes."""
    for change in changes:
        params = params.model_copy(update=dict(change.values))
    return params


def differences(params: JobType, now: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Difference]:
    """Where ``wanted`` is not what is in force of a job with ``params``, in their order."""
    live = params.live - params.varied()
    return [
        Difference(name, now.get(name), wanted[name], "now" if name in live else "new_job")
        for name in type(params).model_fields
        if name in wanted and wanted[name] != now.get(name)
    ]


def _values(stored: StoredCommand) -> dict[str, ParameterValue]:
    match command_adapter.validate_json(stored.body):
        case SetLearningRate(lr=lr):
            return {"lr": lr}
        case SetParameters(values=values):
            return values
        case _:
            return {}
