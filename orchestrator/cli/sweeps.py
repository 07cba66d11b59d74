"""``saeforge sweep``: many jobs from one request."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import Json, command, emit, out, printable, status_text
from orchestrator.cli.submission import mapping_from_file, pair
from orchestrator.client import Client
from orchestrator.errors import InvalidInput
from orchestrator.views import SweepView

SweepRef = Annotated[str, typer.Argument(metavar="SWEEP", help="The sweep's id.")]
Params = Annotated[list[str] | None, typer.Option("--param", "-p", metavar="KEY=VALUE", help="One that all jobs have.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    sweep = typer.Typer(no_args_is_help=True, help="Many jobs from one request, which differ in some parameters.")
    sweep.command("submit")(submit)
    sweep.command("ls")(ls)
    sweep.command("show")(show)
    sweep.command("limit")(limit)
    for action in ("cancel", "pause", "resume", "stop"):
        sweep.command(action, help=f"{action.capitalize()} all of its jobs that allow it.")(_action(action))
    app.add_typer(sweep, name="sweep")


@command
def submit(
    type: Annotated[str, typer.Argument(metavar="TYPE", help="Job type, e.g. train_sae.")],
    params: Annotated[
        Path | None, typer.Option(help="Parameters that all jobs have, from a JSON or YAML file.")
    ] = None,
    param: Params = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=A,B,...", help="Values to try, in every combination with the others."),
    ] = None,
    random: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=LOW..HIGH[:log][:int]", help="Numbers to draw from, for each sample anew."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many times the random ones are drawn.")] = 1,
    repeat: Annotated[int, typer.Option(min=1, help="Jobs for each combination, with seeds of their own.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the random draws.")] = 0,
    max_running: Annotated[int | None, typer.Option(min=1, help="Most of its jobs that run at once.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call it; its jobs are numbered.")] = None,
    owner: Annotated[str, typer.Option(help="Who it belongs to.")] = "default",
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="Higher starts earlier.")] = 0,
    tag: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    json: Json = False,
) -> None:
    """Queue one job for every point of a sweep, all of them or none; prints its id."""
    base = mapping_from_file(params) if params else {}
    with Client() as client:
        made = client.sweep(
            type.replace("-", "_"),
            base | dict(pair(text) for text in param or []),
            grid=dict(_values(text) for text in grid or []),
            random=dict(_range(text) for text in random or []),
            samples=samples,
            repeat=repeat,
            seed=seed,
            max_running=max_running,
            name=name,
            owner=owner,
            priority=priority,
            tags=tag or [],
        )
    if json:
        emit(made)
    else:
        out.print(f"{made.id}: {sum(made.jobs.values())} jobs", soft_wrap=True)


@command
def ls(json: Json = False) -> None:
    """List sweeps, newest first."""
    with Client() as client:
        page = client.sweeps()
    if json:
        emit(page)
        return
    if not page.items:
        out.print("no sweeps")
        return
    table = Table("ID", "NAME", "TYPE", "VARIES", "JOBS", box=None, pad_edge=False, header_style="bold")
    for sweep in page.items:
        varied = printable(", ".join(sweep.varied))
        table.add_row(str(sweep.id), Text(printable(sweep.name)), sweep.type, Text(varied), _standing(sweep))
    out.print(table)


@command
def show(
    sweep: SweepRef,
    metric: Annotated[str | None, typer.Option(help="Order by this figure, the best first.")] = None,
    highest: Annotated[bool, typer.Option("--highest", help="The highest is the best.")] = False,
    json: Json = False,
) -> None:
    """Show what each job of a sweep was given and what came of it."""
    best: Literal["lowest", "highest"] = "highest" if highest else "lowest"
    with Client() as client:
        found = client.sweep_of(sweep)
        results = client.sweep_results(sweep, metric=metric, best=best)
    if json:
        emit(results)
        return
    out.print(Text.assemble(printable(found.name), " ", _standing(found)))
    shown = [metric] if metric else _figures([set(point.values) for point in results.items])
    headings = ["ID", *found.varied, *shown, "STATUS"]
    table = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for point in results.items:
        values = [f"{point.values[name]:.6g}" if name in point.values else "–" for name in shown]
        given = [Text(printable(_plain(point.params.get(name)))) for name in found.varied]
        table.add_row(str(point.job_id)[:8], *given, *values, status_text(point.status))
    out.print(table)


@command
def limit(
    sweep: SweepRef,
    most: Annotated[int, typer.Argument(min=0, help="Most of its jobs that run at once; 0 for no limit.")],
    json: Json = False,
) -> None:
    """Let more or fewer of its jobs run at once; those that run go on."""
    with Client() as client:
        after = client.limit_sweep(sweep, most or None)
    if json:
        emit(after)
    else:
        out.print(f"at most {most} of its jobs run at once" if most else "its jobs run as there is room for them")


def _action(action: str) -> Any:
    @command
    def act(sweep: SweepRef, json: Json = False) -> None:
        with Client() as client:
            acted = client.act_on_sweep(sweep, action)  # type: ignore[arg-type]
        if json:
            emit(acted)
        else:
            rest = f"; {acted.left} were left as they are" if acted.left else ""
            out.print(f"{action} was asked of {acted.done} jobs{rest}")

    return act


def _standing(sweep: SweepView) -> Text:
    return Text(", ".join(f"{count} {status}" for status, count in sorted(sweep.jobs.items())) or "no jobs left")


def _figures(each: list[set[str]]) -> list[str]:
    """The figures worth a column: those of quality that any job has."""
    known = set().union(*each)
    return [name for name in ("fvu", "l0", "dead_share", "loss") if name in known]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _values(text: str) -> tuple[str, list[Any]]:
    name, given = pair(text)
    if isinstance(given, list):
        return name, given
    return name, [pair(f"{name}={part}")[1] for part in text.partition("=")[2].split(",")]


def _range(text: str) -> tuple[str, dict[str, Any]]:
    name, _, rest = text.partition("=")
    numbers, *words = rest.split(":")
    low, dots, high = numbers.partition("..")
    try:
        drawn: dict[str, Any] = {"low": float(low), "high": float(high)}
    except ValueError:
        dots = ""
    if not (name and dots) or set(words) - {"log", "int"}:
        raise InvalidInput(
            f"--random {text}: is not KEY=LOW..HIGH", field="random", suggestion="e.g. lr=1e-5..1e-3:log"
        )
    return name, drawn | {"log": "log" in words, "integer": "int" in words}
