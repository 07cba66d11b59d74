"""``python -m worker_image.local <directory>``: an attempt without an orchestrator, in this very process.

The directory is laid out as an orchestrator would, so what reads a run directory reads this one, and commands appended
to its ``commands.jsonl`` are obeyed. The terminal shows the log above a progress bar. Ctrl-C (or SIGTERM) writes a
checkpoint and ends; ``--resume`` goes on from the newest one, ``--resume=step_400`` from that one.

Exit codes: 0 completed; 4 stopped with a checkpoint; 130 ended by a second Ctrl-C; otherwise as ``worker_image.run``.
"""

import argparse
import fcntl
import json
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Protocol

from worker_image.contract.events import Event, Failure, Progress
from worker_image.contract.rundir import RunDir, RunSpec
from worker_image.errors import UserError
from worker_image.reporter import Level, Outcome, Run, finite, formatted, write_line
from worker_image.run import EXIT_USER_ERROR, execute

EXIT_STOPPED = 4
EXIT_INTERRUPTED = 130
NEWEST = "newest"
_ON_INTERRUPT = b"\nending once a checkpoint is written; Ctrl-C again ends at once, without it\n"
_LOOKED_AT = 1 << 20
"""Bytes at the end of the event file that surely hold a whole event."""


class Display(Protocol):
    """Where a person watches."""

    def line(self, text: str, level: Level) -> None: ...
    def progress(self, progress: Progress) -> None: ...


class PlainDisplay:
    """Log lines alone: for files, pipes, and where rich is not installed."""

    def line(self, text: str, level: Level) -> None:
        write_line(text, level)

    def progress(self, progress: Progress) -> None:
        """The log tells it."""


class LocalRun(Run):
    """An attempt that keeps its own log and shows it.

    Beside what every run directory holds, ``metrics.jsonl`` has a line ``{"step": ..., <name>: <value>, ...}`` for each
    report, and one only for each step: what a resumed run does again replaces what was written before.

    Creating it takes over SIGTERM and SIGINT for the process.
    """

    def __init__(self, run_dir: RunDir, spec: RunSpec, display: Display) -> None:
        super().__init__(
            run_dir,
            spec,
            last_seq=whole_events(run_dir.events),
            # What was asked of an earlier process is not asked of this one.
            commands_from=run_dir.commands.stat().st_size,
        )
        self.outcome: Outcome | None = None
        self._log = run_dir.log
        self._display = display
        self._metrics = run_dir.path / "metrics.jsonl"
        self._measured = False
        signal.signal(signal.SIGINT, self._on_sigint)

    def _on_sigint(self, _signum: int, _frame: FrameType | None) -> None:
        self._terminated = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # It may have come in the middle of a write of ours: no stream may be touched here.
        os.write(sys.__stderr__.fileno(), _ON_INTERRUPT)  # type: ignore[union-attr]

    def emit(self, event: type[Event], **fields: object) -> None:
        super().emit(event, **fields)
        if event is Progress:
            self._display.progress(Progress(seq=1, ts=0, **fields))

    def metrics(self, step: int, values: dict[str, float]) -> None:
        super().metrics(step, values)
        if not self._measured:
            drop_from(self._metrics, step)
            self._measured = True
        _append(self._metrics, json.dumps({"step": step, **finite(values)}) + "\n")

    def log(self, text: str, level: Level = "info") -> None:
        _append(self._log, formatted(text, level))
        self._display.line(text, level)

    def finish(
        self, outcome: Outcome, *, failure: Failure | None = None, results: dict[str, float] | None = None
    ) -> None:
        super().finish(outcome, failure=failure, results=results)
        self.outcome = outcome


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def whole_events(path: Path) -> int:
    """Cut off an event that a killed process wrote in part; return the number of the last whole one, or 0."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOOKED_AT))
        tail = file.read()
        torn = len(tail) - (tail.rfind(b"\n") + 1)
        file.truncate(size - torn)
    lines = tail[: len(tail) - torn].splitlines()
    return int(json.loads(lines[-1])["seq"]) if lines else 0


def drop_from(path: Path, step: int) -> None:
    """Leave of a file of measurements those before ``step``."""
    kept: list[str] = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # a killed process wrote it in part
                continue
            if row["step"] < step:
                kept.append(line)
    draft = path.with_suffix(".draft")
    draft.write_text("".join(f"{line}\n" for line in kept))
    draft.replace(path)


def chosen_checkpoint(run_dir: RunDir, name: str, display: Display) -> Path:
    """The checkpoint to continue from: the newest that is intact, or the one of this name or path.

    Raises:
        UserError: there is none.
    """
    # Torch comes with it, and takes seconds to load: not before it is needed.
    from worker_image.sae.checkpoint import CheckpointCorrupt, checkpoints_in, verify_checkpoint

    if name != NEWEST:
        for path in (run_dir.checkpoints / name, Path(name)):
            if path.is_dir():
                return path.resolve()
        raise UserError("resume", f"there is no checkpoint {name!r} in {run_dir.checkpoints}", "leave out its name")
    for path in reversed(checkpoints_in(run_dir.checkpoints)):
        try:
            verify_checkpoint(path)
        except CheckpointCorrupt as error:
            display.line(f"{error}; trying the one before", "warning")
        else:
            return path.resolve()
    raise UserError("resume", f"there is no intact checkpoint in {run_dir.checkpoints}", "start in a new directory")


def terminal_display(stack: ExitStack) -> Display:
    """A bar on a terminal, where rich is installed; lines anywhere else."""
    if not sys.stdout.isatty():
        return PlainDisplay()
    try:
        from worker_image.terminal import BarDisplay
    except ImportError:
        return PlainDisplay()
    return stack.enter_context(BarDisplay())


def main(argv: list[str]) -> int:
    """Run or continue the attempt in ``argv[0]``; return the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m worker_image.local")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--resume", nargs="?", const=NEWEST, metavar="CHECKPOINT")
    given = parser.parse_args(argv)
    run_dir = RunDir(given.directory.resolve())
    try:
        spec = run_dir.spec()
    except (OSError, ValueError) as error:
        write_line(f"cannot read {run_dir.params}: {error}", "error")
        return EXIT_USER_ERROR
    with ExitStack() as stack:
        claim = stack.enter_context(run_dir.claim.open("a"))
        try:
            # Held until this process is gone, however it goes.
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            write_line(f"{run_dir.path} is being trained in by another process", "error")
            return EXIT_USER_ERROR
        display = terminal_display(stack)
        try:
            if given.resume is not None:
                found = chosen_checkpoint(run_dir, given.resume, display)
                spec = spec.model_copy(update={"resume_from": str(found)})
        except UserError as error:
            display.line(f"{error.message}; {error.suggestion}", "error")
            return EXIT_USER_ERROR
        run = LocalRun(run_dir, spec, display)
        try:
            code = execute(run, spec)
        except KeyboardInterrupt:
            run.log("ended by Ctrl-C; --resume goes on from the last checkpoint", "warning")
            return EXIT_INTERRUPTED
    if run.outcome in ("stopped", "paused"):
        write_line("to go on, give the same command with --resume", "info")
        return EXIT_STOPPED
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
