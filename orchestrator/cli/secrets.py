"""``saeforge secrets``: values that jobs may use and nobody may read."""

import sys
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import Json, command, emit, out, printable
from orchestrator.client import Client
from orchestrator.errors import InvalidInput

Name = Annotated[str, typer.Argument(help="As of a variable, e.g. HF_TOKEN.")]
Owner = Annotated[str | None, typer.Option(help="Whose jobs may use it; everybody's when empty.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    secrets = typer.Typer(no_args_is_help=True, help="Keep secrets that jobs find as files (submit --secret NAME).")
    secrets.command("set")(set_secret)
    secrets.command("list")(list_secrets)
    secrets.command("rm")(rm)
    app.add_typer(secrets, name="secrets")


@command
def set_secret(name: Name, owner: Owner = None, json: Json = False) -> None:
    """Keep a secret; its value is read from standard input, or asked for on a terminal."""
    value = _value(name)
    with Client() as client:
        client.set_secret(name, value, owner=owner)
    if json:
        emit({"name": name, "set": True})
    else:
        out.print(Text(f"{printable(name)} is set"))


def _value(name: str) -> str:
    # Not an argument: those can be seen by everybody on the machine, and stay in the shell's history.
    if sys.stdin.isatty():
        value: str = typer.prompt(f"value of {name}", hide_input=True, err=True)
        return value
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError:
        raise InvalidInput("the value is not text", field="value", suggestion="encode it, e.g. with base64") from None


@command
def list_secrets(json: Json = False) -> None:
    """List the secrets that your jobs may use; never their values."""
    with Client() as client:
        found = client.list_secrets()
    if json:
        emit(found)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("NAME", "OWNER", "SET"):
        table.add_column(heading, no_wrap=True)
    for secret in found:
        when = secret.updated_at.astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(secret.name, Text(printable(secret.owner or "everybody")), when)
    out.print(table if found else "no secrets")


@command
def rm(name: Name, owner: Owner = None, json: Json = False) -> None:
    """Forget a secret. Jobs that run keep what they have."""
    with Client() as client:
        client.delete_secret(name, owner=owner)
    if json:
        emit({"name": name, "deleted": True})
    else:
        out.print(Text(f"{printable(name)} is deleted"))
