"""``saeforge webhooks``: who is told what happens."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import ExitCode, Json, command, emit, out, printable
from orchestrator.client import Client
from orchestrator.views import WebhookRequest, WebhookTryView

HookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id; 'saeforge webhooks ls' shows it.")]

group = typer.Typer(no_args_is_help=True, help="Tell other programs what happens, over HTTP.")


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    for name, function in (
        ("add", add),
        ("ls", ls),
        ("rm", rm),
        ("ping", ping),
        ("enable", enable),
        ("deliveries", deliveries),
    ):
        group.command(name)(function)
    app.add_typer(group, name="webhooks")


@command
def add(
    url: Annotated[str, typer.Argument(help="Where to send to, e.g. https://example.org/hooks/saeforge")],
    event: Annotated[list[str] | None, typer.Option(help="Event to tell; again for more.")] = None,
    status: Annotated[list[str] | None, typer.Option(help="Only changes to this status; again for more.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only jobs of this owner.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with this tag.")] = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    json: Json = False,
) -> None:
    """Add a webhook and print the secret that signs what it is sent. It is shown this once."""
    request = WebhookRequest(url=url, description=description, owner=owner, tag=tag)
    changes = {"events": event, "statuses": status}
    request = request.model_copy(update={name: value for name, value in changes.items() if value})
    with Client() as client:
        made = client.add_webhook(request)
    if json:
        emit(made)
    else:
        out.print(f"{made.id}\nsecret  {made.secret}", soft_wrap=True)


@command
def ls(json: Json = False) -> None:
    """List the webhooks."""
    with Client() as client:
        hooks = client.webhooks()
    if json:
        emit(hooks)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("ID", "URL", "EVENTS", "STATE"):
        table.add_column(heading, overflow="fold")
    for hook in hooks:
        state = Text("active", "green") if hook.disabled is None else Text(printable(hook.disabled), "red")
        if hook.disabled is None and hook.tries:
            state = Text(f"{hook.tries} tries failed, next {hook.next_try_at:%H:%M:%S} UTC", "yellow")
        table.add_row(str(hook.id), printable(hook.url), ", ".join([*hook.events, *hook.statuses]), state)
    out.print(table)


@command
def rm(webhook: HookId, json: Json = False) -> None:
    """Delete a webhook."""
    with Client() as client:
        client.delete_webhook(webhook)
    if json:
        emit({"id": webhook, "deleted": True})
    else:
        out.print(f"{webhook} is deleted")


@command
def ping(webhook: HookId, json: Json = False) -> ExitCode:
    """Send a test now; exit code 1 if it was not taken."""
    with Client() as client:
        tried = client.ping_webhook(webhook)
    if json:
        emit(tried)
    else:
        out.print(_said(tried))
    return ExitCode.OK if tried.error is None else ExitCode.JOB_FAILED


@command
def enable(
    webhook: HookId,
    skip: Annotated[bool, typer.Option("--skip", help="Leave out what it missed.")] = False,
    json: Json = False,
) -> None:
    """Send again after too many failures, from where it stopped."""
    with Client() as client:
        hook = client.enable_webhook(webhook, skip=skip)
    if json:
        emit(hook)
    else:
        out.print(f"{hook.id} is active")


@command
def deliveries(webhook: HookId, limit: Annotated[int, typer.Option(min=1, max=500)] = 20, json: Json = False) -> None:
    """Show what became of the newest tries."""
    with Client() as client:
        tries = client.webhook_deliveries(webhook, limit=limit)
    if json:
        emit(tries)
        return
    for tried in tries:
        event = "ping" if tried.event_id is None else f"event {tried.event_id}"
        out.print(f"{tried.at:%Y-%m-%d %H:%M:%S}  {event} ({tried.type}), try {tried.number}: ", end="")
        out.print(_said(tried), soft_wrap=True)


def _said(tried: WebhookTryView) -> Text:
    if tried.error is None:
        return Text(f"delivered, HTTP {tried.status_code} in {tried.duration_s:.2f} s", "green")
    return Text(printable(tried.error), "red")
