"""The run directory: every path inside it, and what ``params.json`` holds.

``<home>/runs/<job_id>/<attempt>/``. Each file has exactly one writer and byte offset is the only cursor, so it works
the same in a container, a subprocess or a remote pod that shares the directory.
"""

import os
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from worker_image.contract.commands import AppliedChange
from worker_image.contract.jobs import JobParams
from worker_image.contract.retention import EarlierCheckpoint


def step_of(checkpoint: PurePath | str | None) -> int | None:
    """Optimiser steps done at a checkpoint to continue from, as its directory's name tells; None of anything else."""
    _, _, step = PurePath(checkpoint or "").name.partition("step_")
    return int(step) if step.isdecimal() else None


class RunSpec(BaseModel):
    """``params.json``: all that a worker is given. Written once by the orchestrator."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    job_id: UUID
    attempt: int = Field(ge=1)
    name: str
    """What a person calls the job."""
    params: SerializeAsAny[JobParams]
    inputs: dict[str, str] = Field(default_factory=dict)
    """Reference field -> what it resolved to: an absolute path, or a hub id where the network is allowed."""
    resume_from: str | None = None
    """Checkpoint directory of an earlier attempt to continue from; start afresh when empty."""
    earlier: tuple[EarlierCheckpoint, ...] = ()
    """Checkpoints of earlier attempts, oldest first, but for anomalies: they count when those are chosen that stay."""
    changes: tuple[AppliedChange, ...] = ()
    """Changes of parameters that earlier attempts made, or that were asked for between two, in the order of asking."""
    cache: str | None = None
    """Directory of the activation cache, shared with other jobs; none when empty."""
    cache_mb: int | None = Field(default=None, ge=1)
    """Most that it may take on disk, in MiB; what the disk has when empty."""
    cpus: float | None = None
    """CPU cores granted; the number of compute threads follows from it."""
    gpus: int = 0
    """How many GPUs were granted."""
    gpu_memory_mb: int | None = None
    """Memory of the one GPU granted, in MiB, where it is shared with other jobs; all of it when empty."""


@dataclass(frozen=True)
class RunDir:
    """Paths of one attempt."""

    path: Path

    @classmethod
    def of(cls, home: Path, job_id: UUID, attempt: int) -> Self:
        return cls(home / "runs" / str(job_id) / str(attempt))

    @property
    def params(self) -> Path:
        """Written once by the orchestrator before launch."""
        return self.path / "params.json"

    @property
    def events(self) -> Path:
        """Appended only by the worker."""
        return self.path / "events.jsonl"

    @property
    def commands(self) -> Path:
        """Appended only by the orchestrator."""
        return self.path / "commands.jsonl"

    @property
    def log(self) -> Path:
        """Standard output and error, appended only by the run itself."""
        return self.path / "log"

    @property
    def dropped(self) -> Path:
        """What was freed of the log; written only by the orchestrator, and beside the directory: the run owns that."""
        return self.path.with_name(f"{self.path.name}.dropped.json")

    @property
    def claim(self) -> Path:
        """Created atomically by the first process of the attempt; a second one refuses to run."""
        return self.path / "claim"

    @property
    def begun(self) -> Path:
        """What the orchestrator knew of the job and the attempt before the launch.

        Beside the directory, and so out of the job's reach.
        """
        return self.path.with_name(f"{self.path.name}.begun.json")

    @property
    def settled(self) -> Path:
        """How the orchestrator settled the attempt; beside the directory too."""
        return self.path.with_name(f"{self.path.name}.settled.json")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    def checkpoint(self, name: str) -> Path | None:
        """The checkpoint of this name if it is a directory here.

        The job names it and owns all that is in here, ``checkpoints/`` too: no link may stand anywhere below the run
        directory itself.
        """
        path = self.checkpoints / name
        inside = path.resolve() == self.path.resolve() / self.checkpoints.name / name
        return path if inside and path.parent == self.checkpoints and path.is_dir() else None

    def create(self, spec: RunSpec) -> None:
        """Lay out the directory and write ``params.json``. Repeating it changes nothing: an attempt has one spec."""
        for folder in (self.path, self.checkpoints, self.artifacts):
            folder.mkdir(parents=True, exist_ok=True)
        # The job may be running already, when who launched it died before that was known: what it put in place of a
        # file of ours is neither followed nor waited for.
        for file in (self.events, self.commands, self.log):
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666))
        if os.path.lexists(self.params):
            return
        draft = self.params.with_suffix(".tmp")
        draft.unlink(missing_ok=True)
        with draft.open("x") as stream:
            stream.write(spec.model_dump_json(indent=2))
        draft.replace(self.params)

    def spec(self) -> RunSpec:
        """Read ``params.json``.

        Raises:
            FileNotFoundError: the directory was never laid out.
            pydantic.ValidationError: the file is not a run spec.
        """
        return RunSpec.model_validate_json(self.params.read_bytes())
