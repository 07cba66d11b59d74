"""``saeforge up``: the orchestrator in this process, the dashboard beside it."""

import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Annotated

import typer

from orchestrator.cli.console import command, err, out
from orchestrator.doctor import port_problem
from orchestrator.errors import InvalidInput, SettingsError
from orchestrator.settings import Settings, read_settings

_ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})
_DASHBOARD_GRACE_S = 5.0
_PR_SET_PDEATHSIG = 1


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("up")(up)


@command
def up(
    api_only: Annotated[bool, typer.Option("--api-only", help="Without the dashboard.")] = False,
    host: Annotated[str | None, typer.Option(help="Address the API listens on (SAEFORGE_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API (SAEFORGE_PORT).")] = None,
    dashboard_port: Annotated[int | None, typer.Option(help="Port of the dashboard (SAEFORGE_DASHBOARD_PORT).")] = None,
) -> None:
    """Start the orchestrator and the dashboard, and run until Ctrl-C. Jobs go on when it ends."""
    settings = read_settings(Settings, host=host, port=port, dashboard_port=dashboard_port)
    try:
        from orchestrator.app import serve, sole_owner
        from orchestrator.store.backup import require_usable
    except ModuleNotFoundError as error:
        advice = "pip install 'saeforge[orchestrator]'"
        raise SettingsError(f"the orchestrator is not installed here ({error.name})", suggestion=advice) from None
    # Held from before the first word to the end: of two started at once, the other one is refused in one line.
    with sole_owner(settings):
        require_usable(settings.database, settings.backups)
        require_free_port(settings.host, settings.port, "--port")
        if not api_only:
            require_free_port(settings.dashboard_host, settings.dashboard_port, "--dashboard-port")
        # The server passes the signal on once it has shut down; without a handler that would kill us before our end.
        signal.signal(signal.SIGTERM, _interrupt)
        with suppress(KeyboardInterrupt), nullcontext() if api_only else dashboard(settings):
            out.print(f"orchestrator  {address(settings.host, settings.port)}  (API: /docs)", soft_wrap=True)
            serve(settings, announce_key=partial(_announce_key, settings))


def _announce_key(settings: Settings, key: str) -> None:
    out.print(f"API key       {key}  (shown once; kept in {settings.key_file})", soft_wrap=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def dashboard(settings: Settings) -> Iterator[None]:
    """The dashboard as a process of its own, which ends with the block, or with this process however it dies."""
    if importlib.util.find_spec("streamlit") is None or importlib.util.find_spec("dashboard") is None:
        err.print("no dashboard: it is not installed; pip install 'saeforge\\[dashboard]'", style="yellow")
        yield
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "dashboard"],
        env={**os.environ, **dashboard_environment(settings)},
        # Ctrl-C reaches this process alone, which then ends the dashboard in order.
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    out.print(f"dashboard     {address(settings.dashboard_host, settings.dashboard_port)}", soft_wrap=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_DASHBOARD_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def dashboard_environment(settings: Settings) -> dict[str, str]:
    """What the dashboard is told beside what it inherits."""
    return {
        "SAEFORGE_URL": address(settings.host, settings.port),
        "SAEFORGE_HOME": str(settings.home),
        "SAEFORGE_DASHBOARD_HOST": settings.dashboard_host,
        "SAEFORGE_DASHBOARD_PORT": str(settings.dashboard_port),
    }


def address(host: str, port: int) -> str:
    """Where to reach, from this machine, what listens on ``host``."""
    if host in _ANY_ADDRESS:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def require_free_port(host: str, port: int, flag: str) -> None:
    """Nobody listens there yet.

    Raises:
        InvalidInput: somebody does, or the address is not this machine's.
    """
    if (problem := port_problem(host, port)) is not None:
        advice = f"choose another with {flag}; 'saeforge doctor' tells whether saeforge already runs there"
        raise InvalidInput(f"{host}:{port}: {problem}", field=flag, suggestion=advice)


def die_with_parent() -> None:
    """Have the kernel end this child when its parent is gone, even by SIGKILL. Linux only; elsewhere it is left."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
