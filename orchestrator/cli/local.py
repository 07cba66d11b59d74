"""What needs no orchestrator: ``saeforge train``, the configuration file it reads, and ``saeforge convert``."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import uuid4

import typer
from pydantic import TypeAdapter, ValidationError

from orchestrator.cli.console import ExitCode, command
from orchestrator.cli.submission import pair
from orchestrator.config_file import blank, read, written
from orchestrator.domain import Params
from orchestrator.errors import InvalidInput
from orchestrator.intake import job_type_name, resolve
from orchestrator.inventory import Inventory
from orchestrator.settings import Settings
from worker_image.contract.commands import AppliedChange, SetLearningRate, SetParameters
from worker_image.contract.commands import command as command_adapter
from worker_image.contract.events import CommandApplied
from worker_image.contract.events import event as event_adapter
from worker_image.contract.jobs import JOB_TYPES, JobType
from worker_image.contract.rundir import RunDir, RunSpec

Line = TypeVar("Line")
Given = TypeVar("Given", bound=JobType)

_NEEDED = ("torch", "transformers", "safetensors")
"""What the worker extra brings."""


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("train")(train)
    app.command("config")(config)
    app.command("convert")(convert)


@command
def train(
    config: Annotated[Path | None, typer.Argument(metavar="FILE", help="Parameters as YAML: saeforge config.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter instead of the file's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where all of it goes; runs/<name of the file> when left out.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint there.")] = False,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="Go on from this one: a name there, or a path.")
    ] = None,
    gpu_memory_mb: Annotated[
        int | None, typer.Option(min=64, help="Most GPU memory to take, in MiB; all of it when left out.")
    ] = None,
) -> ExitCode:
    """Run a job here and now, without an orchestrator: same code, same files. Ctrl-C saves a checkpoint and ends."""
    _check_installed("training here", ", or 'saeforge submit' where an orchestrator runs")
    resume = resume or checkpoint is not None
    if config is None and (out is None or not resume):
        raise InvalidInput("FILE is missing", field="config", suggestion="'saeforge config train_sae' prints one")
    run_dir = RunDir((out or Path("runs") / config.stem if config else out or Path()).resolve())
    params = _params(config, run_dir, dict(pair(text) for text in override or []))
    _lay_out(run_dir, params, gpu_memory_mb, resume=resume)
    words = [sys.executable, "-m", "worker_image.local", str(run_dir.path)]
    if resume:
        words.append(f"--resume={checkpoint}" if checkpoint else "--resume")
    sys.stdout.flush()
    sys.stderr.flush()
    # In place of this process, so that Ctrl-C and signals are the trainer's own.
    os.execv(sys.executable, words)


@command
def config(
    type: Annotated[str, typer.Argument(metavar="TYPE", help="Job type, e.g. train_sae.")] = "train_sae",
) -> None:
    """Print a configuration file for a job type, every parameter with its default and meaning."""
    sys.stdout.write(blank(JOB_TYPES[job_type_name(type)]))


@command
def convert(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="Folder of an autoencoder, in whichever format.")],
    target: Annotated[Path, typer.Argument(metavar="TO", help="New folder.")],
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help="saelens, sparsify, dictionary_learning, or saeforge, our own.")
    ],
) -> ExitCode:
    """Write an autoencoder that one library trained as another one reads it."""
    _check_installed("converting")
    words = [sys.executable, "-m", "worker_image.convert", str(source), str(target), f"--to={to}"]
    sys.stdout.flush()
    sys.stderr.flush()
    # In place of this process: what the trainer is made of is not loaded into the commands'.
    os.execv(sys.executable, words)


def _check_installed(what: str, otherwise: str = "") -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInput(
            f"{what} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            suggestion=f"pip install 'saeforge[client,worker]'{otherwise}",
        )


def _params(config: Path | None, run_dir: RunDir, overrides: dict[str, Any]) -> Params:
    """The parameters of the file, or of the run that is to go on.

    Raises:
        InvalidInput: naming the line, the field at fault and what to do.
    """
    source = config or run_dir.path / "config.yaml"
    params = read(source).parsed("train_sae", overrides)
    if params.type == "container":
        raise InvalidInput(f"{source}: a container job is a command of its own: run that", field="type")
    return found_here(params)


def found_here(params: Given) -> Given:
    """The parameters with what is found from where we stand, which comes before the home, as absolute paths: these mean
    the same to both."""
    here = {
        field: str(path.resolve())
        for field in params.references()
        if isinstance(value := getattr(params, field), str) and (path := Path(value)).exists()
    }
    return params.model_copy(update=here)


def _lay_out(run_dir: RunDir, params: Params, gpu_memory_mb: int | None, *, resume: bool) -> None:
    """Make the directory, or the one that is there ready to go on.

    Raises:
        InvalidInput: there is a run in it already, or none to go on with; an input is not there.
    """
    exists = run_dir.params.exists()
    # A run that never came to a checkpoint leaves nothing to be lost.
    if exists and not resume and any(run_dir.checkpoints.glob("*")):
        raise InvalidInput(
            f"{run_dir.path} holds a run already", field="out", suggestion="--resume goes on with it; or give --out"
        )
    if resume and not exists:
        raise InvalidInput(f"{run_dir.path} holds no run to go on with", field="out", suggestion="leave out --resume")
    settings = Settings()
    inputs = resolve(params, Inventory(settings), also=(Path("/"),))
    job_id, attempt = uuid4(), 1
    if exists:
        before = run_dir.spec()
        job_id, attempt = before.job_id, before.attempt + 1
        run_dir.params.unlink()
    run_dir.create(
        RunSpec(
            job_id=job_id,
            attempt=attempt,
            name=run_dir.path.name,
            params=params,
            inputs=inputs,
            cache=str(settings.activation_cache) if settings.activation_cache_mb else None,
            cache_mb=settings.activation_cache_mb or None,
            gpu_memory_mb=gpu_memory_mb,
        )
    )
    (run_dir.path / "config.yaml").write_text(written(params))


def changes_told(run_dir: RunDir) -> tuple[AppliedChange, ...]:
    """The changes of parameters that the run took up so far, to be made again after a checkpoint from before them."""
    asked = {command.id: command for command in _parsed(run_dir.commands, command_adapter)}
    made = []
    for event in _parsed(run_dir.events, event_adapter):
        if isinstance(event, CommandApplied) and (told := asked.get(event.command_id)) is not None:
            match told:
                case SetLearningRate(lr=lr):
                    made.append(AppliedChange(id=told.id, step=event.step or 0, values={"lr": lr}))
                case SetParameters(values=values):
                    made.append(AppliedChange(id=told.id, step=event.step or 0, values=values))
    return tuple(made)


def _parsed(path: Path, adapter: TypeAdapter[Line]) -> Iterator[Line]:
    """The lines of a file that can be read: a killed process may have left half of one."""
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(ValidationError):
            yield adapter.validate_json(line)
