"""``saeforge owners``: who uses how much of the machine, and how much each may."""

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import Json, command, emit, out, printable
from orchestrator.cli.progress import duration
from orchestrator.client import Client
from orchestrator.errors import InvalidInput
from orchestrator.views import OwnerView

_LIMITS = ("max_running", "max_gpus", "max_queued")
Limit = Annotated[str | None, typer.Option(metavar="N|none", help="The most, or none for no limit.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    owners = typer.Typer(invoke_without_command=True)
    owners.callback()(_unless_told_otherwise)
    owners.command("set")(set_limits)
    app.add_typer(owners, name="owners")


def _unless_told_otherwise(context: typer.Context, json: Json = False) -> None:
    """Show who uses how much of the machine, and how much each may."""
    if context.invoked_subcommand is None:
        show(json=json)


@command
def show(json: Json = False) -> None:
    """Show who uses how much of the machine, and how much each may."""
    with Client() as client:
        found = client.owners()
    if json:
        emit(found)
    else:
        out.print(_table(found) if found else "no owners yet: nobody has submitted a job")


@command
def set_limits(
    owner: Annotated[str, typer.Argument(help="The owner's name.")],
    share: Annotated[float | None, typer.Option(help="Weight against other owners; 1 unless set.")] = None,
    max_running: Limit = None,
    max_gpus: Limit = None,
    max_queued: Limit = None,
    json: Json = False,
) -> None:
    """Change an owner's share or limits; what is left out stays as it is."""
    given = {"max_running": max_running, "max_gpus": max_gpus, "max_queued": max_queued}
    changes: dict[str, Any] = {name: _limit(name, text) for name, text in given.items() if text is not None}
    if share is not None:
        changes["share"] = share
    if not changes:
        raise InvalidInput("nothing to change", suggestion="give --share, --max-running, --max-gpus or --max-queued")
    with Client() as client:
        before = next((view for view in client.owners() if view.owner == owner), None)
        now = {name: getattr(before, name) for name in ("share", *_LIMITS)} if before is not None else {}
        after = client.set_owner(owner, **(now | changes))
    if json:
        emit(after)
    else:
        out.print(_table([after]))


def _limit(name: str, text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal():
        option = f"--{name.replace('_', '-')}"
        raise InvalidInput(f"{option}: {text!r} is no limit", field=name, suggestion="give a whole number, or none")
    return int(text)


def _table(found: list[OwnerView]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("OWNER", no_wrap=True)
    for heading in ("SHARE", "RUNNING", "GPUS", "QUEUED", "GPU TIME"):
        table.add_column(heading, no_wrap=True, justify="right")
    for view in found:
        table.add_row(
            Text(printable(view.owner)),
            f"{view.share:g}",
            _of(view.running, view.max_running),
            _of(view.gpus, view.max_gpus),
            _of(view.queued, view.max_queued),
            duration(view.usage_gpu_s),
        )
    return table


def _of(now: int, most: int | None) -> str:
    return str(now) if most is None else f"{now} of {most}"
