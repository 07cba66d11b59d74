"""Run: the one thing a job's code holds. It reports events, writes log lines, and hands over commands.

``NullRun`` has the same face and needs no orchestrator: for notebooks, scripts and tests.
"""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal, Protocol
from uuid import UUID

from pydantic import ValidationError

from worker_image.contract.commands import AnyCommand, AppliedChange
from worker_image.contract.commands import command as command_adapter
from worker_image.contract.events import (
    CommandApplied,
    CommandRejected,
    Event,
    Failure,
    Finished,
    Message,
    Metrics,
)
from worker_image.contract.jobs import JobType
from worker_image.contract.retention import EarlierCheckpoint
from worker_image.contract.rundir import RunDir, RunSpec

Level = Literal["info", "success", "warning", "error"]
Outcome = Literal["completed", "paused", "stopped", "failed"]

_LEVEL_NAMES: dict[Level, str] = {"info": "INFO", "success": "SUCCESS", "warning": "WARN", "error": "ERROR"}


@dataclass(frozen=True)
class Terminated:
    """SIGTERM: end soon, leaving a checkpoint. It is not a command and nobody waits for an answer."""


Instruction = AnyCommand | Terminated
"""What ``poll`` may hand over."""


class RunContext(Protocol):
    """What a job's ``main`` may use."""

    name: str
    """What people call the job."""
    inputs: dict[str, str]
    """Reference field -> absolute path or hub id."""
    resume_from: Path | None
    """Checkpoint to continue from."""
    earlier: tuple[EarlierCheckpoint, ...]
    """Checkpoints of earlier attempts, oldest first, but for anomalies."""
    changes: tuple[AppliedChange, ...]
    """Changes of parameters that earlier attempts made."""
    cache: Path | None
    """Directory of the activation cache, if there is one."""
    cache_mb: int | None
    """Most MiB it may take; what the disk has when None."""
    gpus: int
    """How many GPUs it was granted."""
    gpu_memory_mb: int | None
    """Memory of its GPU it may use, in MiB, where it shares it; all of it when None."""
    checkpoints: Path
    artifacts: Path

    @property
    def tracker_runs(self) -> Mapping[str, str]:
        """Experiment tracker -> its run, which a resumed job goes on with."""
        ...

    def emit(self, event: type[Event], **fields: object) -> None:
        """Report an event; ``seq`` and ``ts`` are filled in."""
        ...

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Report measurements, leaving out what is not finite."""
        ...

    def log(self, text: str, level: Level = "info") -> None:
        """Write a line for people."""
        ...

    def notify(self, text: str, level: Level) -> None:
        """Write a line for people and report it as an event."""
        ...

    def poll(self) -> list[Instruction]:
        """What was asked since the last call, oldest first. Cheap enough for every step."""
        ...

    def applied(self, instruction: Instruction, detail: str = "", step: int | None = None) -> None:
        """Acknowledge a command that took effect, after so many steps."""
        ...

    def rejected(self, instruction: Instruction, reason: str) -> None:
        """Acknowledge a command that is refused."""
        ...

    def finish(
        self, outcome: Outcome, *, failure: Failure | None = None, results: dict[str, float] | None = None
    ) -> None:
        """Report the end. Nothing may follow."""
        ...


def formatted(text: str, level: Level) -> str:
    """Log lines as they are written: local time, level, text; each ends with a newline."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    prefix = f"{stamp} {_LEVEL_NAMES[level]:<7} "
    return "".join(f"{prefix}{line}\n" for line in text.splitlines() or [""])


def write_line(text: str, level: Level) -> None:
    """Log lines on standard output. A single write, so lines never interleave."""
    sys.stdout.write(formatted(text, level))
    sys.stdout.flush()


def finite(values: dict[str, float]) -> dict[str, float]:
    """The finite ones: JSON has no NaN and a chart no use for it."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


class Run:
    """An attempt under an orchestrator: events and commands go through files of the run directory.

    Creating it takes over SIGTERM for the process.
    """

    def __init__(self, run_dir: RunDir, spec: RunSpec, *, last_seq: int = 0, commands_from: int = 0) -> None:
        """Args:
        last_seq: number of the last event in the file already, when an earlier process wrote there.
        commands_from: byte of the command file at which those for this process begin.
        """
        self.name = spec.name
        self.tracker_runs: Mapping[str, str] = {}
        self.inputs = spec.inputs
        self.resume_from = Path(spec.resume_from) if spec.resume_from else None
        self.earlier = spec.earlier
        self.changes = spec.changes
        self.cache = Path(spec.cache) if spec.cache else None
        self.cache_mb = spec.cache_mb
        self.gpus = spec.gpus
        self.gpu_memory_mb = spec.gpu_memory_mb
        self.checkpoints = run_dir.checkpoints
        self.artifacts = run_dir.artifacts
        self._commands = _CommandFile(run_dir.commands, type(spec.params), commands_from)
        self._seq = last_seq
        self._line_is_open = False
        self._terminated = False
        # Events are appended to an O_APPEND descriptor without a buffer in between, so what was written survives the
        # death of this process.
        self._events_fd = os.open(run_dir.events, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, _signum: int, _frame: FrameType | None) -> None:
        self._terminated = True

    def emit(self, event: type[Event], **fields: object) -> None:
        # No number is used twice, even after a failed write: all but the newline of that event may be in the file.
        self._seq += 1
        made = event(seq=self._seq, ts=time.time(), **fields)
        self._append(made.model_dump_json().encode() + b"\n")

    def _append(self, line: bytes) -> None:
        """Write a whole line, on a line of its own even if the one before was cut short by a full disk.

        Raises:
            OSError: it was not written, or only in part.
        """
        left = b"\n" + line if self._line_is_open else line
        while left:
            written = os.write(self._events_fd, left)
            if written:
                self._line_is_open = left[written - 1] != ord("\n")
            left = left[written:]

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.emit(Metrics, step=step, values=finite(values))

    def log(self, text: str, level: Level = "info") -> None:
        write_line(text, level)

    def notify(self, text: str, level: Level) -> None:
        self.log(text, level)
        self.emit(Message, level=level, text=text)

    def poll(self) -> list[Instruction]:
        instructions: list[Instruction] = []
        for taken in self._commands.read_new():
            if isinstance(taken, _Refused):
                self.log(f"command refused: {taken.reason}", "warning")
                if taken.id is not None:
                    self.emit(CommandRejected, command_id=taken.id, reason=taken.reason)
            else:
                instructions.append(taken)
        if self._terminated:
            self._terminated = False
            instructions.append(Terminated())
        return instructions

    def applied(self, instruction: Instruction, detail: str = "", step: int | None = None) -> None:
        if not isinstance(instruction, Terminated):
            self.emit(CommandApplied, command_id=instruction.id, detail=detail, step=step)

    def rejected(self, instruction: Instruction, reason: str) -> None:
        if not isinstance(instruction, Terminated):
            self.log(f"{instruction.type} refused: {reason}", "warning")
            self.emit(CommandRejected, command_id=instruction.id, reason=reason)

    def finish(
        self, outcome: Outcome, *, failure: Failure | None = None, results: dict[str, float] | None = None
    ) -> None:
        # On a full disk an answer may be lost, which shows as a command that expired; the last word may not.
        with suppress(OSError):
            for late in self.poll():
                self.rejected(late, f"the job has already {outcome}")
        self.emit(Finished, outcome=outcome, failure=failure, results=finite(results or {}))
        os.close(self._events_fd)


class NullRun:
    """A run nobody watches: checkpoints, artifacts and activation cache go under ``folder``, events are dropped, no
    command comes."""

    def __init__(self, folder: Path, inputs: dict[str, str] | None = None, resume_from: Path | None = None) -> None:
        run_dir = RunDir(folder)
        self.name = folder.name
        self.tracker_runs: Mapping[str, str] = {}
        self.inputs = inputs or {}
        self.resume_from = resume_from
        self.earlier: tuple[EarlierCheckpoint, ...] = ()
        self.changes: tuple[AppliedChange, ...] = ()
        self.cache: Path | None = folder / "cache"
        self.cache_mb: int | None = None
        self.gpus = 0
        self.gpu_memory_mb: int | None = None
        self.checkpoints = run_dir.checkpoints
        self.artifacts = run_dir.artifacts
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.artifacts.mkdir(parents=True, exist_ok=True)

    def emit(self, event: type[Event], **fields: object) -> None:
        """Drop the event."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Drop the measurements."""

    def log(self, text: str, level: Level = "info") -> None:
        write_line(text, level)

    def notify(self, text: str, level: Level) -> None:
        write_line(text, level)

    def poll(self) -> list[Instruction]:
        return []

    def applied(self, instruction: Instruction, detail: str = "", step: int | None = None) -> None:
        """Nobody waits for it."""

    def rejected(self, instruction: Instruction, reason: str) -> None:
        """Nobody waits for it."""

    def finish(
        self, outcome: Outcome, *, failure: Failure | None = None, results: dict[str, float] | None = None
    ) -> None:
        """Nobody waits for it."""


@dataclass(frozen=True)
class _Refused:
    id: UUID | None
    reason: str


class _CommandFile:
    """Reads ``commands.jsonl`` by byte offset, whole lines only."""

    def __init__(self, path: Path, job_type: type[JobType], offset: int = 0) -> None:
        self._path = path
        self._job_type = job_type
        self._offset = offset

    def read_new(self) -> list[AnyCommand | _Refused]:
        try:
            if self._path.stat().st_size <= self._offset:
                return []
        except FileNotFoundError:
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [self._parse(line) for line in whole.splitlines() if line.strip()]

    def _parse(self, line: bytes) -> AnyCommand | _Refused:
        try:
            command = command_adapter.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            return _Refused(_command_id(line), f"not a valid command: {where} {first['msg']}".strip())
        if command.type not in self._job_type.commands:
            return _Refused(command.id, f"a {self._job_type.title} job does not take {command.type!r}")
        return command


def _command_id(line: bytes) -> UUID | None:
    """The id in a line that is not a valid command, so that even this one is answered."""
    try:
        return UUID(json.loads(line)["id"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


__all__ = ["Instruction", "Level", "NullRun", "Outcome", "Run", "RunContext", "Terminated", "write_line"]
