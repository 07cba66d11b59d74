"""The command that tells what a job measured and what it used."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import JobRef, Json, command, emit, find_job, out, printable
from orchestrator.client import Client
from orchestrator.errors import InvalidInput
from orchestrator.views import MetricStats, ResourceStats


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("metrics")(metrics)


@command
def metrics(
    job: JobRef,
    name: Annotated[
        list[str] | None, typer.Option("--name", "-n", help="Only this one; may be given several times.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Every measurement, exactly, as a table.")] = False,
    names: Annotated[bool, typer.Option("--names", help="Only the names.")] = False,
    resources: Annotated[bool, typer.Option("--resources", help="CPU, memory and GPUs instead.")] = False,
    json: Json = False,
) -> None:
    """Show what a job measured: the last value of each metric, its range, mean and deviation."""
    if sum((csv, names, json)) > 1:
        raise InvalidInput("--csv, --names and --json exclude each other", suggestion="give one of them")
    with Client() as client:
        job_id = find_job(client, job)
        if csv:
            download = client.download_resources if resources else client.download_metrics
            download(job_id, sys.stdout.buffer, names=name)
            sys.stdout.buffer.flush()
            return
        found: Sequence[MetricStats | ResourceStats] = (
            client.resources(job_id, max_points=2).series if resources else client.metrics_summary(job_id)
        )
    found = [stats for stats in found if not name or stats.name in name]
    if json:
        emit(found)
    elif names:
        for stats in found:
            out.print(Text(printable(stats.name)), soft_wrap=True)
    else:
        out.print(_table(found) if found else "nothing was measured yet")


def _table(found: Sequence[MetricStats | ResourceStats]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("METRIC", "LAST", "MIN", "AT", "MAX", "AT", "MEAN", "STD", "POINTS"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "METRIC" else "right")
    for stats in found:
        if isinstance(stats, MetricStats):
            low, high = str(stats.min_step), str(stats.max_step)
        else:
            low, high = (f"{moment.astimezone():%m-%d %H:%M:%S}" for moment in (stats.min_ts, stats.max_ts))
        std = "-" if stats.std is None else _figure(stats.std)
        row = [_figure(stats.last), _figure(stats.min), low, _figure(stats.max), high, _figure(stats.mean), std]
        table.add_row(Text(printable(stats.name)), *row, str(stats.count))
    return table


def _figure(value: float) -> str:
    return f"{value:.5g}"
