"""The command line: ``saeforge``."""

import typer

from orchestrator.cli import diagnosis, following, jobs, server, submission

app = typer.Typer(
    name="saeforge",
    help="Queue, run and watch sparse-autoencoder training jobs on your own GPUs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (server, submission, jobs, following, diagnosis):
    module.add_to(app)
