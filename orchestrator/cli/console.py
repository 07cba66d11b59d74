"""The terminal: what the commands print where, and the exit codes that scripts read."""

import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Annotated, Any, ParamSpec
from uuid import UUID

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from orchestrator.client import Client
from orchestrator.domain import JobStatus
from orchestrator.errors import (
    Forbidden,
    ImageMissing,
    InvalidInput,
    NotFound,
    OrchestratorError,
    QuotaExceeded,
    SettingsError,
    StateConflict,
    TooLarge,
    Unauthenticated,
)
from orchestrator.transport import KEY_ADVICE, Unreachable
from orchestrator.views import JobView

Arguments = ParamSpec("Arguments")

_PIPE_WIDTH = 200

out = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH)
"""Results. Nothing else goes to standard output."""
err = Console(stderr=True, highlight=False)
"""Everything said beside the result."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
JobRef = Annotated[str, typer.Argument(metavar="JOB", help="Job id, or the first characters of it.")]


class ExitCode(IntEnum):
    """What a command's exit code says."""

    OK = 0
    """Done; the job completed."""
    JOB_FAILED = 1
    """The job failed, or doctor found something required missing."""
    BAD_INPUT = 2
    """Wrong usage, or a parameter that was refused."""
    JOB_CANCELLED = 3
    """The job was cancelled."""
    JOB_STOPPED = 4
    """The job was stopped after a final checkpoint."""
    UNREACHABLE = 5
    """No orchestrator answers."""
    NOT_ALLOWED = 6
    """The API key is missing or wrong, or this is not allowed."""
    NOT_FOUND = 7
    """There is no such job, attempt or file."""
    CONFLICT = 8
    """The job's state, or its owner's limit, does not allow this."""
    ORCHESTRATOR_ERROR = 9
    """The orchestrator could not do it, or answered something unknown."""
    INTERRUPTED = 130
    """Ctrl-C."""


_OF_ERROR: tuple[tuple[tuple[type[OrchestratorError], ...], ExitCode], ...] = (
    ((Unreachable,), ExitCode.UNREACHABLE),
    ((Unauthenticated, Forbidden), ExitCode.NOT_ALLOWED),
    ((NotFound,), ExitCode.NOT_FOUND),
    ((StateConflict, QuotaExceeded), ExitCode.CONFLICT),
    ((InvalidInput, SettingsError, TooLarge, ImageMissing), ExitCode.BAD_INPUT),
)
_OF_STATUS = {
    JobStatus.COMPLETED: ExitCode.OK,
    JobStatus.FAILED: ExitCode.JOB_FAILED,
    JobStatus.CANCELLED: ExitCode.JOB_CANCELLED,
    JobStatus.STOPPED: ExitCode.JOB_STOPPED,
}

STYLES = {
    JobStatus.QUEUED: ("○", "bright_black"),
    JobStatus.STARTING: ("◔", "cyan"),
    JobStatus.RUNNING: ("▶", "blue"),
    JobStatus.PAUSING: ("◑", "yellow"),
    JobStatus.PAUSED: ("Ⅱ", "yellow"),
    JobStatus.STOPPING: ("◕", "magenta"),
    JobStatus.COMPLETED: ("✔", "green"),
    JobStatus.STOPPED: ("■", "magenta"),
    JobStatus.FAILED: ("✘", "red"),
    JobStatus.CANCELLED: ("⊘", "dark_orange"),
}
"""Status -> its icon and colour."""


def exit_code_of(error: OrchestratorError) -> ExitCode:
    """What a script is told of an error."""
    for kinds, code in _OF_ERROR:
        if isinstance(error, kinds):
            return code
    return ExitCode.ORCHESTRATOR_ERROR


def outcome_of(job: JobView) -> ExitCode:
    """What a script is told of an ended job."""
    return _OF_STATUS[job.status]


def command(function: Callable[Arguments, ExitCode | None]) -> Callable[Arguments, None]:
    """Turn what a command returns or raises into an exit code, with one line for people and no traceback."""

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            code = function(*args, **kwargs)
        except OrchestratorError as error:
            complain(error, as_json=bool(kwargs.get("json", False)))
            code = exit_code_of(error)
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        except BrokenPipeError:
            # The reader of a pipe went away, as "| head" does; Python would complain again while flushing at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = ExitCode.OK
        raise typer.Exit(int(code or ExitCode.OK))

    return run


def complain(error: OrchestratorError, *, as_json: bool = False) -> None:
    """Say on standard error what went wrong and what to do."""
    advice = _advice(error)
    if as_json:
        details = {"field": error.field, "suggestion": advice}
        sys.stderr.write(json.dumps({"code": error.code, "message": error.message, "details": details}) + "\n")
        return
    err.print(Text(f"error: {printable(error.message)}", style="red"), soft_wrap=True)
    if advice:
        err.print(Text(f"  → {printable(advice)}"), soft_wrap=True)


def _advice(error: OrchestratorError) -> str | None:
    """What to do, in terms of this command line where the API speaks of requests."""
    if isinstance(error, Unauthenticated):
        return KEY_ADVICE
    if isinstance(error, NotFound) and error.field == "id":
        return "saeforge ls lists the jobs there are"
    return error.suggestion


def emit(value: BaseModel | Sequence[BaseModel] | dict[str, Any]) -> None:
    """Print one JSON document on one line of standard output."""
    if isinstance(value, BaseModel):
        text = value.model_dump_json()
    elif isinstance(value, dict):
        text = json.dumps(value)
    else:
        text = "[" + ",".join(item.model_dump_json() for item in value) + "]"
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """Text of others without control characters, which could rewrite the terminal."""
    return "".join(mark if mark.isprintable() or mark == "\n" else "�" for mark in text)


def status_text(status: JobStatus) -> Text:
    icon, style = STYLES[status]
    return Text(f"{icon} {status}", style=style)


def size(size_bytes: int) -> str:
    """A size in its best unit, e.g. "1.29 GB"."""
    amount = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} GB"


def find_job(client: Client, reference: str) -> str:
    """The full id of the job a person means by an id or the first characters of one.

    Raises:
        NotFound: no job begins with it.
        InvalidInput: several do, or it cannot be the beginning of an id.
    """
    wanted = reference.strip().lower().replace("-", "")
    if not wanted or set(wanted) - set("0123456789abcdef") or len(wanted) > 32:
        advice = "'saeforge ls' shows ids; the start of one is enough"
        raise InvalidInput(f"{reference!r} is not a job id", field="job", suggestion=advice)
    if len(wanted) == 32:
        return wanted
    found = set[UUID]()
    seen = 0
    while True:
        # Names match too, and a job submitted meanwhile shifts the pages: so look closely, and count none twice.
        page = client.jobs(q=wanted[:8], archived="any", limit=100, offset=seen)
        found |= {job.id for job in page.items if job.id.hex.startswith(wanted)}
        seen += len(page.items)
        if not page.items or seen >= page.total:
            break
    if not found:
        raise NotFound(f"no job begins with {reference!r}", suggestion="'saeforge ls' shows the jobs there are")
    if len(found) > 1:
        ids = ", ".join(str(job_id) for job_id in sorted(found)[:4])
        problem = f"{reference!r} could be {len(found)} jobs: {ids}"
        raise InvalidInput(problem, field="job", suggestion="give more of it")
    return str(found.pop())
