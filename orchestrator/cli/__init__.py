"""The command line: ``saeforge``."""

from typing import Annotated

import typer

from orchestrator.cli import (
    diagnosis,
    following,
    jobs,
    keys,
    local,
    metrics,
    owners,
    pipelines,
    plan,
    pull,
    secrets,
    server,
    submission,
    sweeps,
    top,
    upkeep,
    webhooks,
)
from worker_image import __version__

app = typer.Typer(
    name="saeforge",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"saeforge {__version__}")
        raise typer.Exit


@app.callback()
def saeforge(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Queue, run and watch sparse-autoencoder training jobs on your own GPUs."""


for module in (
    server,
    local,
    submission,
    plan,
    sweeps,
    pipelines,
    jobs,
    following,
    pull,
    top,
    metrics,
    keys,
    owners,
    secrets,
    diagnosis,
    upkeep,
    webhooks,
):
    module.add_to(app)
