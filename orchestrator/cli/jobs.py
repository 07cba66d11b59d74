"""Commands that list jobs, show one, and act on one."""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import STYLES, JobRef, Json, command, emit, find_job, out, printable, size, status_text
from orchestrator.cli.progress import duration
from orchestrator.cli.submission import ON_FAILURE, pair
from orchestrator.client import Client
from orchestrator.config_file import read
from orchestrator.domain import TERMINAL, JobStatus
from orchestrator.errors import InvalidInput
from orchestrator.views import AttemptView, JobDetail, JobView


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("ls")(ls)
    app.command("show")(show)
    for name, (action, said) in ACTIONS.items():
        app.command(name, help=_summary(action))(_action_command(action, said))
    app.command("set-lr", help=_summary(Client.set_learning_rate))(set_lr)
    app.command("set")(set_parameters)
    app.command("restart", help=_summary(Client.restart))(restart)
    app.command("edit")(edit)
    app.command("clone")(clone)
    app.command("purge")(purge)


ACTIONS: dict[str, tuple[Callable[[Client, str], JobDetail], str]] = {
    "cancel": (Client.cancel, "is being cancelled"),
    "pause": (Client.pause, "is being paused"),
    "resume": (Client.resume, "is queued again"),
    "stop": (Client.stop, "is being stopped"),
    "checkpoint": (Client.checkpoint, "was asked for a checkpoint"),
    "validate": (Client.validate, "was asked to measure on the held-out tokens"),
}


def _action_command(action: Callable[[Client, str], JobDetail], said: str) -> Callable[..., None]:
    @command
    def act(job: JobRef, json: Json = False) -> None:
        with Client() as client:
            _tell(action(client, find_job(client, job)), said, json=json)

    return act


@command
def set_lr(
    job: JobRef,
    lr: Annotated[float, typer.Argument(metavar="LR", help="The new peak learning rate, e.g. 3e-4.")],
    json: Json = False,
) -> None:
    if not math.isfinite(lr):
        raise InvalidInput(f"lr: {lr} is not a number", field="lr", suggestion="give one like 3e-4")
    with Client() as client:
        after = client.set_learning_rate(find_job(client, job), lr)
    if json:
        emit(after)
    else:
        said = f"{after.id} was asked for a peak learning rate of {lr:g}: "
        out.print(Text.assemble(said, status_text(after.status)))


@command
def set_parameters(
    job: JobRef,
    change: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Parameters and their new values.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="YAML", help="Take the parameters of this file as wanted.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what differs from what is in force.")] = False,
    json: Json = False,
) -> None:
    """Change parameters of a job from its next step on; shows which it takes up, and which want a new job."""
    wanted = (read(file).values if file is not None else {}) | dict(pair(text) for text in change or [])
    if not wanted:
        raise InvalidInput("nothing to change", suggestion="give KEY=VALUE, or --file with a YAML file of parameters")
    with Client() as client:
        found = client.set_parameters(find_job(client, job), wanted, dry_run=dry_run)
    if json:
        emit(found)
        return
    for item in found.differences:
        how = "asked for" if found.command_id else "can be changed now" if item.applies == "now" else ""
        how = "wants a new job: saeforge clone" if item.applies == "new_job" else how
        out.print(Text(f"{item.name}: {_shown(item.now)} -> {_shown(item.wanted)}  ({how})"))
    if not found.differences:
        out.print("nothing differs from what is in force")


def _shown(value: Any) -> str:
    return printable(dumps(value))


@command
def restart(
    job: JobRef,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of continuing.")] = False,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="The checkpoint to continue from; the newest when left out.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="KEY=VALUE", help="A parameter to change, such as a lower lr."),
    ] = None,
    json: Json = False,
) -> None:
    changes = dict(pair(text) for text in param or [])
    with Client() as client:
        after = client.restart(find_job(client, job), fresh=fresh, checkpoint=checkpoint, params=changes)
        _tell(after, "is queued as a new job", json=json)


Tags = Annotated[list[str] | None, typer.Option("--tag", help="May be given several times; replaces all tags.")]
Priority = Annotated[int | None, typer.Option(min=-1000, max=1000, help="Higher starts earlier.")]


@command
def edit(
    job: JobRef,
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    tag: Tags = None,
    priority: Priority = None,
    retries: Annotated[int | None, typer.Option(min=0, max=1000, help="Most retries in a row; 0 for none.")] = None,
    on_failure: Annotated[Literal["fail", "pause"] | None, typer.Option(help=ON_FAILURE)] = None,
    json: Json = False,
) -> None:
    """Change a job's name, tags, priority, retries, or what becomes of it when it fails."""
    given = {"name": name, "tags": tag or None, "priority": priority}
    changes: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    with Client() as client:
        found = client.job(find_job(client, job))
        retry = {"max_retries": retries, "on_failure": on_failure}
        if given_retry := {field: value for field, value in retry.items() if value is not None}:
            changes["retry"] = found.retry.model_copy(update=given_retry)
        if not changes:
            raise InvalidInput(
                "nothing to change", suggestion="give --name, --tag, --priority, --retries or --on-failure"
            )
        after = client.update(found.id, **changes)
    if json:
        emit(after)
    else:
        out.print(f"{after.id} has changed: {', '.join(changes)}")


@command
def clone(
    job: JobRef,
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", metavar="KEY=VALUE", help="A parameter to change.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call the new job.")] = None,
    tag: Tags = None,
    priority: Priority = None,
    json: Json = False,
) -> None:
    """Queue a new job like another one, with some parameters changed."""
    given = {"name": name, "tags": tag or None, "priority": priority}
    changes: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    with Client() as client:
        after = client.clone(find_job(client, job), params=dict(pair(text) for text in param or []), **changes)
        _tell(after, "is queued as a new job", json=json)


def _tell(after: JobDetail, said: str, *, json: bool) -> None:
    if json:
        emit(after)
    elif after.status in TERMINAL or after.status is JobStatus.PAUSED:
        out.print(Text.assemble(f"{after.id} is ", (str(after.status), STYLES[after.status][1])))
    else:
        out.print(Text.assemble(f"{after.id} {said}: ", status_text(after.status)))


def _summary(documented: Callable[..., object]) -> str:
    """The first line of a docstring."""
    return (documented.__doc__ or "").split("\n", 1)[0]


@command
def purge(
    job: JobRef,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete an ended job with its log, checkpoints and artifacts."""
    with Client() as client:
        found = client.job(find_job(client, job))
        if not yes:
            question = f"Delete {printable(found.name)} ({found.id}) with its log, checkpoints and artifacts?"
            if not typer.confirm(question, err=True):
                raise InvalidInput("nothing was deleted")
        client.purge(found.id)
    if json:
        emit({"id": str(found.id), "purged": True})
    else:
        out.print(f"{found.id} is deleted")


@command
def ls(
    status: Annotated[str | None, typer.Option(help=f"One of {', '.join(JobStatus)}.")] = None,
    type: Annotated[str | None, typer.Option(help='Job type, e.g. "train_sae".')] = None,
    owner: Annotated[str | None, typer.Option()] = None,
    tag: Annotated[str | None, typer.Option()] = None,
    model: Annotated[str | None, typer.Option()] = None,
    dataset: Annotated[str | None, typer.Option()] = None,
    q: Annotated[str | None, typer.Option("--q", "-q", help="Text to search for.")] = None,
    archived: Annotated[bool, typer.Option("--archived", help="Those that were archived.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most jobs to show.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="Jobs to leave out at the start.")] = 0,
    sort: Annotated[
        str | None,
        typer.Option(help="created_at, started_at, completed_at, priority or name; -name: the other way round."),
    ] = None,
    json: Json = False,
) -> None:
    """List jobs, newest first unless sorted otherwise."""
    with Client() as client:
        page = client.jobs(
            status=status,
            type=type,
            owner=owner,
            tag=tag,
            model=model,
            dataset=dataset,
            q=q,
            limit=limit,
            offset=offset,
            sort=sort,
            archived="true" if archived else None,
        )
    if json:
        emit(page)
        return
    if not page.items:
        out.print("no jobs" if page.total == 0 else f"no jobs beyond {page.total}")
        return
    out.print(_listing(page.items, out.width))
    if page.total > len(page.items):
        out.print(f"{len(page.items)} of {page.total} jobs", style="bright_black")


def _listing(jobs: Sequence[JobView], width: int) -> Table:
    """One line a job, whatever the width: names and details are cut short, ids never."""
    roomy = width >= 110
    name_width = 20 if width >= 80 else 10
    # Whatever the other columns leave over.
    detail_width = max(8, width - name_width - (66 if roomy else 42))
    headings = ["ID", "NAME", *(["TYPE", "OWNER"] if roomy else []), "STATUS", "PROGRESS", "AGE", "DETAIL"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=True, justify="right" if heading in {"PROGRESS", "AGE"} else "left")
    for job in jobs:
        name = Text(printable(_first_line(job.name)))
        name.truncate(name_width, overflow="ellipsis")
        detail = Text(printable(_first_line(_detail(job))))
        detail.truncate(detail_width, overflow="ellipsis")
        age = duration((datetime.now(UTC) - job.created_at).total_seconds())
        kind: list[str | Text] = [job.type, Text(printable(job.owner))] if roomy else []
        table.add_row(str(job.id)[:8], name, *kind, status_text(job.status), _share(job), age, detail)
    return table


@command
def show(job: JobRef, json: Json = False) -> None:
    """Show everything about a job: status, parameters, attempts, checkpoints and artifacts."""
    with Client() as client:
        found = client.job(find_job(client, job))
        if json:
            emit(found)
            return
        artifacts = client.artifacts(found.id)
        checkpoints = client.checkpoints(found.id)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bright_black", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(found):
        table.add_row(name, value if isinstance(value, Text) else Text(printable(value)))
    for checkpoint in checkpoints:
        name = f"{checkpoint.name}, the best" if checkpoint.best else checkpoint.name
        table.add_row("checkpoint", f"{name}  {size(checkpoint.size_bytes)}  {checkpoint.path}")
    for artifact in artifacts:
        table.add_row("artifact", f"{artifact.path}  {size(artifact.size_bytes)}  {artifact.digest}")
    out.print(table)


def _facts(job: JobDetail) -> list[tuple[str, str | Text]]:
    """Name and value of everything worth showing of a job."""
    facts: list[tuple[str, str | Text]] = [
        ("id", str(job.id)),
        ("name", job.name),
        ("type", job.type),
        ("status", status_text(job.status)),
        ("phase", f"{job.phase} {_share(job)}".strip()),
        ("waits", f"{job.wait.detail} ({job.wait.reason}, place {job.wait.position})" if job.wait else ""),
        ("failed", Text(printable(f"{job.failure.message} ({job.failure.reason})"), "red") if job.failure else ""),
        ("to do", (job.failure and job.failure.suggestion) or ""),
        *((name, when.astimezone().strftime("%Y-%m-%d %H:%M:%S")) for name, when in _moments(job)),
        ("owner", job.owner),
        ("priority", str(job.priority)),
        ("tags", ", ".join(job.tags)),
        ("params", _pairs(job.params)),
        ("resources", _pairs(job.resources.model_dump(exclude_none=True))),
        ("metrics", _pairs(job.metrics or {})),
        ("results", _pairs(job.results or {})),
        *(("attempt", _attempt_line(attempt)) for attempt in job.attempt_list),
        ("used", _used(job)),
        *(("command", f"{told.type}  {told.status}  {told.detail}".rstrip()) for told in job.commands),
        ("log", job.log_path or ""),
        ("result", job.result_path or ""),
        ("tensorboard", job.tensorboard_url or (job.tensorboard_logdir and f"--logdir {job.tensorboard_logdir}") or ""),
        ("possible", ", ".join(job.available_actions)),
    ]
    return [(name, value) for name, value in facts if value]


def _used(job: JobDetail) -> str:
    cost = "" if job.cost is None else f", which cost {job.cost:.2f}"
    return f"{job.gpu_hours:.2f} GPU hours{cost}" if job.gpu_hours else ""


def _attempt_line(attempt: AttemptView) -> str:
    ended = f"{attempt.end_reason}, exit code {attempt.exit_code}" if attempt.end_reason else "running"
    gpus = f" on {', '.join(attempt.gpus)}" if attempt.gpus else ""
    return f"{attempt.number}  {attempt.executor}{gpus}  {attempt.handle or '-'}  {ended}"


def _moments(job: JobView) -> list[tuple[str, datetime]]:
    moments = (("created", job.created_at), ("started", job.started_at), ("ended", job.completed_at))
    return [(name, when) for name, when in moments if when is not None]


def _detail(job: JobView) -> str:
    """The one thing worth knowing about a job in a list."""
    if job.wait:
        return f"{job.wait.detail} (place {job.wait.position})"
    if job.failure:
        return f"{job.failure.reason}: {job.failure.message}"
    figures = job.results or job.metrics or {}
    labels = {"loss": "loss", "fvu": "held-out FVU" if job.results else "FVU", "l0": "L0"}
    return "  ".join(f"{label} {figures[name]:.4g}" for name, label in labels.items() if name in figures)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _share(job: JobView) -> str:
    if job.status is JobStatus.COMPLETED:
        return "100 %"
    if not job.progress or not job.progress.get("total"):
        return ""
    return f"{100 * job.progress['done'] / job.progress['total']:.0f} %"


def _pairs(values: dict[str, Any]) -> str:
    return "  ".join(f"{name}={_value(value)}" for name, value in values.items())


def _value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
