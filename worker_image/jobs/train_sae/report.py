"""The report a training leaves for people: what came out, how it went, what was changed, and with which parameters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from worker_image.contract.commands import AppliedChange
from worker_image.contract.train_sae import TrainSaeParams
from worker_image.jobs.train_sae.summary import duration

_TOLD = ("loss", "fvu", "l0", "dead_share", "val_loss", "val_fvu", "val_l0", "grad_norm", "tokens_per_s", "stall_share")
"""Measurements whose course is told, in this order."""


@dataclass
class Course:
    """How one measurement went."""

    first: float
    first_step: int
    last: float
    last_step: int
    lowest: float
    lowest_step: int
    highest: float
    highest_step: int


class Curves:
    """The course of each measurement, from the first attempt on."""

    def __init__(self) -> None:
        self._courses: dict[str, Course] = {}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take in what was measured after so many steps; what is not finite is left out."""
        for name in _TOLD:
            value = values.get(name, math.nan)
            if not math.isfinite(value):
                continue
            course = self._courses.setdefault(name, Course(value, step, value, step, value, step, value, step))
            course.last, course.last_step = value, step
            if value < course.lowest:
                course.lowest, course.lowest_step = value, step
            if value > course.highest:
                course.highest, course.highest_step = value, step

    def to_json(self) -> dict[str, dict[str, float]]:
        """What a checkpoint keeps."""
        return {name: asdict(course) for name, course in self._courses.items()}

    def restore(self, kept: Mapping[str, Mapping[str, float]]) -> None:
        """Go on from what a checkpoint kept."""
        self._courses = {name: Course(**course) for name, course in kept.items()}  # type: ignore[arg-type]

    def rows(self) -> list[Sequence[object]]:
        """Name, first, last, lowest and highest of each, with their steps."""
        return [
            (
                name,
                f"{_figure(it.first)} ({it.first_step})",
                f"{_figure(it.last)} ({it.last_step})",
                f"{_figure(it.lowest)} ({it.lowest_step})",
                f"{_figure(it.highest)} ({it.highest_step})",
            )
            for name in _TOLD
            if (it := self._courses.get(name)) is not None
        ]


def report(
    params: TrainSaeParams,
    *,
    labels: Sequence[str],
    step: int,
    wall_time_s: float,
    results: Mapping[str, float],
    curves: Curves,
    changes: Sequence[AppliedChange],
    checkpoint: str | None,
) -> str:
    """The report as Markdown.

    Args:
        params: as the job was submitted.
        labels: what tells the autoencoders from each other; one empty label when there is one.
        checkpoint: name of the newest.
    """
    ended = "completed" if step >= params.steps else "stopped early"
    parts = [
        f"# Training report\n\n{ended} after {step:,} of {params.steps:,} steps, {duration(wall_time_s)}; "
        f"{'no checkpoint' if checkpoint is None else f'newest checkpoint {checkpoint}'}.\n",
        _section("Results", ("", *[label or "value" for label in labels]), _result_rows(results, len(labels))),
        _section("Course (step)", ("", "first", "last", "lowest", "highest"), curves.rows()),
    ]
    if changes:
        rows = [(change.step, ", ".join(f"{k} = {v}" for k, v in change.values.items())) for change in changes]
        parts.append(_section("Changed while it ran", ("after step", "to"), rows))
    defaults = {name: field.get_default(call_default_factory=True) for name, field in type(params).model_fields.items()}
    asked = params.model_dump(mode="json")
    chosen = [(name, _plain(value)) for name, value in asked.items() if value != defaults[name]]
    usual = [(name, _plain(value)) for name, value in asked.items() if value == defaults[name]]
    parts.append(_section("Parameters that were chosen", ("", "value"), chosen))
    parts.append(_section("Parameters at their defaults", ("", "value"), usual))
    return "\n".join(parts)


def _result_rows(results: Mapping[str, float], count: int) -> list[Sequence[object]]:
    """A row for each result, a column for each autoencoder."""
    names = [name for name in results if "/" not in name]
    if count == 1:
        return [(name, _figure(results[name])) for name in names]
    return [(name, *[_figure(results.get(f"{name}/{index}")) for index in range(count)]) for name in names]


def _section(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"## {title}\n", f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    lines += [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"


def _plain(value: object) -> str:
    return "" if value is None else str(value)
