"""``saeforge keys``: who may use the API, and how far."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.access import Role
from orchestrator.cli.console import Json, command, emit, err, out, printable
from orchestrator.client import Client
from orchestrator.errors import InvalidInput
from orchestrator.views import KeyView

_LASTING = re.compile(r"(\d{1,6})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}

Lasting = Annotated[str | None, typer.Option("--expires", help="When it ends: 30m, 12h or 90d from now.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
    keys.command("create")(create)
    keys.command("list")(list_keys)
    keys.command("revoke")(revoke)
    keys.command("token")(token)
    app.add_typer(keys, name="keys")
    app.command("whoami")(whoami)


@command
def create(
    name: Annotated[str, typer.Argument(help="What people call it: who or what it is for.")],
    role: Annotated[Role, typer.Option(help="read, write (submit jobs and act on them) or admin.")] = Role.READ,
    owner: Annotated[str | None, typer.Option(help="The only owner whose jobs it sees and acts on.")] = None,
    types: Annotated[list[str] | None, typer.Option("--type", help="A job type it is limited to; repeatable.")] = None,
    expires: Lasting = None,
    json: Json = False,
) -> None:
    """Make an API key and print it, this once."""
    expires_at = None if expires is None else datetime.now(UTC) + timedelta(seconds=_seconds(expires))
    with Client() as client:
        made = client.create_key(name, role=role, owner=owner, types=types or [], expires_at=expires_at)
    if json:
        emit(made)
        return
    out.print(made.key, soft_wrap=True)
    err.print(f"key {made.id} ({_reach(made)}); it cannot be shown again", soft_wrap=True)


@command
def list_keys(json: Json = False) -> None:
    """List every key there ever was, newest first."""
    with Client() as client:
        keys = client.list_keys()
    if json:
        emit(keys)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("ID", "NAME", "MAY", "STATE", "LAST USED"):
        table.add_column(heading, no_wrap=True)
    for key in keys:
        used = key.last_used_at.astimezone().strftime("%Y-%m-%d %H:%M") if key.last_used_at else "never"
        table.add_row(key.id, Text(printable(key.name)), Text(printable(_reach(key))), _state(key), used)
    out.print(table if keys else "no keys but the machine's own")


@command
def revoke(key: Annotated[str, typer.Argument(metavar="ID", help="Id of the key.")], json: Json = False) -> None:
    """Take a key back at once and for good."""
    with Client() as client:
        revoked = client.revoke_key(key)
    if json:
        emit(revoked)
    else:
        out.print(Text(f"{revoked.id} ({printable(revoked.name)}) is revoked"))


@command
def token(
    role: Annotated[Role | None, typer.Option(help="No mightier than the key's own.")] = None,
    expires: Annotated[str, typer.Option(help="When it ends: 30m or 12h from now; 24h at most.")] = "1h",
    json: Json = False,
) -> None:
    """Print a signed token that may do what the key may, or less, for a while."""
    with Client() as client:
        made = client.create_token(role=role, lifetime_s=_seconds(expires))
    if json:
        emit(made)
    else:
        out.print(made.token, soft_wrap=True)


@command
def whoami(json: Json = False) -> None:
    """Show what the key in use may do."""
    with Client() as client:
        me = client.me()
    if json:
        emit(me)
    else:
        out.print(Text(f"{printable(me.name)} ({me.id}): {me.role}{_limits(me.owner, me.types)}"))


def _reach(key: KeyView) -> str:
    return f"{key.role}{_limits(key.owner, key.types)}"


def _limits(owner: str | None, types: list[str]) -> str:
    whose = f", jobs of {owner}" if owner else ""
    return f"{whose}, {' and '.join(types)}" if types else whose


def _state(key: KeyView) -> str:
    if key.revoked_at:
        return "revoked"
    if key.expires_at is None:
        return "in force"
    when = key.expires_at.astimezone().strftime("%Y-%m-%d %H:%M")
    return f"{'expired' if key.expires_at <= datetime.now(UTC) else 'until'} {when}"


def _seconds(text: str) -> float:
    """Raises: InvalidInput."""
    found = _LASTING.fullmatch(text.strip())
    if found is None:
        advice = "write it like 30m, 12h or 90d"
        raise InvalidInput(f"expires: {text!r} is not a time", field="expires", suggestion=advice)
    return float(found[1]) * _SECONDS[found[2]]
