"""``saeforge pipeline`` and ``saeforge schedule``: jobs in steps, and jobs again and again."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import Json, command, emit, out, printable, status_text
from orchestrator.cli.submission import mapping_from_file
from orchestrator.client import Client
from orchestrator.errors import InvalidInput
from orchestrator.views import PipelineView

PipelineRef = Annotated[str, typer.Argument(metavar="PIPELINE", help="The pipeline's id.")]
ScheduleRef = Annotated[str, typer.Argument(metavar="SCHEDULE", help="The schedule's id.")]
Steps = Annotated[Path, typer.Argument(metavar="FILE", help="The pipeline as YAML or JSON: name, tags and steps.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    pipeline = typer.Typer(no_args_is_help=True, help="Jobs in steps, each started once those it needs have ended.")
    pipeline.command("run")(run)
    pipeline.command("ls")(ls)
    pipeline.command("show")(show)
    pipeline.command("cancel")(cancel)
    app.add_typer(pipeline, name="pipeline")
    schedule = typer.Typer(no_args_is_help=True, help="Jobs and pipelines that are submitted again and again.")
    schedule.command("add")(add)
    schedule.command("ls")(schedules)
    schedule.command("pause", help="Submit nothing until it is resumed.")(_enabling(False))
    schedule.command("resume", help="Go on submitting.")(_enabling(True))
    schedule.command("rm")(rm)
    app.add_typer(schedule, name="schedule")


@command
def run(file: Steps, json: Json = False) -> None:
    """Queue the jobs of a pipeline; prints its id."""
    asked = mapping_from_file(file)
    steps = asked.pop("steps", None)
    if not isinstance(steps, list):
        raise InvalidInput(f"{file}: has no list of steps", field="steps")
    with Client() as client:
        made = client.pipeline(steps, **asked)
    if json:
        emit(made)
    else:
        out.print(str(made.id), soft_wrap=True)


@command
def ls(json: Json = False) -> None:
    """List pipelines, newest first."""
    with Client() as client:
        page = client.pipelines()
    if json:
        emit(page)
        return
    if not page.items:
        out.print("no pipelines")
        return
    table = Table("ID", "NAME", "STATUS", "STEPS", box=None, pad_edge=False, header_style="bold")
    for item in page.items:
        table.add_row(str(item.id), Text(printable(item.name)), item.status, str(len(item.steps)))
    out.print(table)


@command
def show(pipeline: PipelineRef, json: Json = False) -> None:
    """Show how each step of a pipeline stands."""
    with Client() as client:
        _print(client.pipeline_of(pipeline), json=json)


@command
def cancel(pipeline: PipelineRef, json: Json = False) -> None:
    """Start no further step, and cancel the jobs that have not ended."""
    with Client() as client:
        _print(client.cancel_pipeline(pipeline), json=json)


def _print(found: PipelineView, *, json: bool) -> None:
    if json:
        emit(found)
        return
    out.print(Text(f"{printable(found.name)} {found.status}"))
    table = Table("STEP", "TYPE", "JOB", "STATUS", "DETAIL", box=None, pad_edge=False, header_style="bold")
    for step in found.steps:
        waits = ", ".join(f"{name} {how}" for name, how in step.needs.items()) if step.state == "waiting" else ""
        told = status_text(step.status) if step.status else Text(step.state)
        detail = Text(printable(step.detail or (f"for {waits}" if waits else "")))
        table.add_row(step.name, step.type, str(step.job_id)[:8] if step.job_id else "–", told, detail)
    out.print(table)


@command
def add(
    cron: Annotated[str, typer.Argument(metavar="CRON", help='When, e.g. "0 3 * * 1" for Mondays at three.')],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A job (type, params, ...) or a pipeline (steps) as YAML or JSON.")
    ],
    name: Annotated[str, typer.Option(help="What to call it.")] = "schedule",
    timezone: Annotated[str, typer.Option(help="In which the times are meant, e.g. Europe/Berlin.")] = "UTC",
    overlap: Annotated[
        Literal["skip", "queue"], typer.Option(help="What to do while the one before has not ended.")
    ] = "skip",
    json: Json = False,
) -> None:
    """Submit a job or a pipeline again and again; prints the schedule's id."""
    asked = mapping_from_file(file)
    kind = "pipeline" if "steps" in asked else "job"
    with Client() as client:
        made = client.schedule(cron, asked, kind=kind, name=name, timezone=timezone, overlap=overlap)
    if json:
        emit(made)
    else:
        out.print(f"{made.id}: next at {made.next_at.astimezone():%Y-%m-%d %H:%M}", soft_wrap=True)


@command
def schedules(json: Json = False) -> None:
    """List schedules, newest first."""
    with Client() as client:
        page = client.schedules()
    if json:
        emit(page)
        return
    if not page.items:
        out.print("no schedules")
        return
    table = Table("ID", "NAME", "WHEN", "NEXT", "LAST TIME", box=None, pad_edge=False, header_style="bold")
    for item in page.items:
        upcoming = f"{item.next_at.astimezone():%Y-%m-%d %H:%M}" if item.enabled else "paused"
        when = f"{item.cron} {item.timezone}"
        table.add_row(str(item.id), Text(printable(item.name)), when, upcoming, Text(printable(item.detail)))
    out.print(table)


@command
def rm(schedule: ScheduleRef, json: Json = False) -> None:
    """Forget a schedule; what it submitted stays."""
    with Client() as client:
        client.remove_schedule(schedule)
    if json:
        emit({"id": schedule, "removed": True})
    else:
        out.print(f"{schedule} is removed")


def _enabling(enabled: bool) -> Any:
    @command
    def enable(schedule: ScheduleRef, json: Json = False) -> None:
        with Client() as client:
            after = client.enable_schedule(schedule, enabled)
        if json:
            emit(after)
        else:
            said = f"submits next at {after.next_at.astimezone():%Y-%m-%d %H:%M}" if enabled else "rests"
            out.print(f"{after.id} {said}", soft_wrap=True)

    return enable
