"""Commands that stay with a job: its log, and its progress."""

import asyncio
import sys
from typing import Annotated

import typer
from rich.text import Text

from orchestrator.cli.console import ExitCode, JobRef, Json, command, emit, err, find_job, out, outcome_of, printable
from orchestrator.cli.progress import Snapshot, display_on, held_out_line
from orchestrator.cli.progress import watch as watch_job
from orchestrator.client import Client
from orchestrator.errors import InvalidInput
from orchestrator.streams import LogFrame, frames_of
from orchestrator.views import JobDetail


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("logs")(logs)
    app.command("watch")(watch)


@command
def logs(
    job: JobRef,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last lines of the newest attempt.")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="Only this attempt; with -f, from it on.")] = None,
    json: Json = False,
) -> ExitCode:
    """Print a job's log: of every attempt in turn, byte for byte. With -f the exit code tells how the job ended."""
    with Client() as client:
        job_id = find_job(client, job)
        if tail is not None:
            chunk = client.logs(job_id, tail=tail, attempt=attempt, encoding="base64")
            for frame in frames_of(chunk):
                _write(frame, as_json=json)
            return follow_log(client, job_id, chunk.attempt, chunk.next_offset, as_json=json) if follow else ExitCode.OK
        if follow:
            return follow_log(client, job_id, attempt or 1, as_json=json)
        if json:
            raise InvalidInput("--json needs --follow or --tail", suggestion="without it the log is printed as it is")
        numbers = [attempt] if attempt else [each.number for each in client.job(job_id).attempt_list]
        for number in numbers:
            client.download_log(job_id, sys.stdout.buffer, attempt=number)
        sys.stdout.buffer.flush()
    return ExitCode.OK


@command
def watch(job: JobRef, json: Json = False) -> ExitCode:
    """Show a live progress bar until the job has ended; the exit code tells how. With --json, its events."""
    with Client() as client:
        job_id = find_job(client, job)
        if json:
            ended = asyncio.run(watch_job(client, job_id, _Silent(), on_event=emit))
            emit(ended)
        else:
            ended = asyncio.run(watch_job(client, job_id, display_on(out)))
            say_outcome(ended)
            if (line := held_out_line(ended)) is not None:
                out.print(line, soft_wrap=True)
    return outcome_of(ended)


def follow_log(client: Client, job_id: str, attempt: int = 1, offset: int = 0, *, as_json: bool) -> ExitCode:
    """Write the log to standard output until the job has ended; how it ended is said on standard error."""
    for frame in client.follow_log(job_id, attempt=attempt, offset=offset):
        _write(frame, as_json=as_json)
    ended = client.job(job_id)
    if as_json:
        emit(ended)
    else:
        say_outcome(ended)
    return outcome_of(ended)


def say_outcome(job: JobDetail) -> None:
    """How the job ended, in one line for people, with advice when it failed."""
    if job.failure:
        err.print(Text(printable(f"{job.status}: {job.failure.message}"), "red"), soft_wrap=True)
        if job.failure.suggestion:
            err.print(Text(printable(f"  → {job.failure.suggestion}")), soft_wrap=True)
    else:
        err.print(str(job.status), style="bright_black")


def _write(frame: LogFrame, *, as_json: bool) -> None:
    if as_json:
        place = {"attempt": frame.attempt, "offset": frame.offset, "next_offset": frame.next_offset}
        emit(place | {"data": frame.data, "skipped": bool(frame.skipped)})
        return
    # Not through text mode, which would translate line ends.
    sys.stdout.buffer.write(frame.skipped.encode() or frame.content)
    sys.stdout.buffer.flush()


class _Silent:
    """Shows nothing: the events themselves are the output."""

    def __enter__(self) -> "_Silent":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, snapshot: Snapshot) -> None:
        pass
