"""The command that brings here what a job leaves."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from orchestrator.cli.console import JobRef, Json, command, emit, err, find_job, out, printable, size
from orchestrator.client import Client


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("pull")(pull)


@command
def pull(
    job: JobRef,
    name: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Artifacts or folders of them; all when left out.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where to.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are others.")] = False,
    json: Json = False,
) -> None:
    """Download a job's artifacts; one that was cut short is continued, and each is checked against its digest."""
    with Client() as client, _bar(shown=not json and err.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def told(path: str, done: int, total: int) -> None:
            bar.update(task, description=printable(path), completed=done, total=total)

        pulled = client.pull(find_job(client, job), output, names=name or (), force=force, told=told)
    if json:
        emit({"files": [{"path": each.artifact.path, "file": str(each.file)} for each in pulled]})
        return
    for each in pulled:
        out.print(Text(printable(f"{each.file}  {size(each.artifact.size_bytes)}")), soft_wrap=True)
    if not pulled:
        out.print("it left nothing so far")


def _bar(*, shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=not shown)
