"""Where attempts run: one protocol, the same for every executor.

Planning is pure and separate from acting: an executor builds its exact request from a ``LaunchSpec`` in a plain
function, and ``launch`` submits it. A handle is a string that survives an orchestrator restart.
"""

from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

HF_TOKEN: Final = "HF_TOKEN"
"""A secret of this name is where the hub's client looks for its token."""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """All an executor needs to start one attempt. Paths are the orchestrator's own; an executor translates them."""

    job_id: UUID
    attempt: int
    name: str
    """Deterministic and unique: ``saeforge-<job_id>-<attempt>``."""
    image: str
    argv: tuple[str, ...]
    """The job's own program; the executor wraps it in ``launcher_argv``."""
    run_dir: Path
    """Mounted read-write at the same path."""
    read_only: tuple[Path, ...] = ()
    """Models, datasets, earlier checkpoints: mounted read-only at the same paths."""
    read_write: tuple[Path, ...] = ()
    """What the attempt shares with others and may write to: the activation cache."""
    secrets: Path | None = None
    """Directory in memory with the files that the job may read and nobody else; none when it names no secret."""
    secret_names: tuple[str, ...] = ()
    """The files in it."""
    env: tuple[tuple[str, str], ...] = ()
    gpus: tuple[str, ...] = ()
    """GPU UUIDs to expose; none of them when empty."""
    cpus: float | None = None
    memory_mb: int | None = None
    shm_mb: int = 256
    pids: int = 4096
    network: bool = False
    builtin: bool = True
    """Whether the program is saeforge's own worker (else any image's own command)."""


def attempt_env(spec: LaunchSpec, secrets_at: str | None = None) -> dict[str, str]:
    """Environment every executor gives a program; the job's own variables win over these.

    Output is unbuffered because the log is followed live. Without network, the hub's client is told to be offline: it
    then fails at once with a clear message instead of retrying a name lookup.

    ``secrets_at`` is where the program sees the directory of its secrets, when that is elsewhere than here.
    """
    env = {"SAEFORGE_RUN_DIR": str(spec.run_dir), "PYTHONUNBUFFERED": "1"}
    if spec.builtin and not spec.network:
        env |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if spec.secrets is not None:
        where = secrets_at or str(spec.secrets)
        env["SAEFORGE_SECRETS_DIR"] = where
        if HF_TOKEN in spec.secret_names:
            env["HF_TOKEN_PATH"] = f"{where}/{HF_TOKEN}"
    return env | dict(spec.env)


class RunState(StrEnum):
    """What an executor sees of an attempt."""

    CREATED = "created"
    """Known to the executor, not started yet."""
    RUNNING = "running"
    EXITED = "exited"
    MISSING = "missing"
    """The executor answers and has never heard of it, or it is gone."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at an attempt."""

    state: RunState
    exit_code: int | None = None
    """Set when exited and known; a process killed by signal n has 128 + n."""
    oom_killed: bool = False
    """The engine saw the kernel end it for want of memory."""
    error: str | None = None
    """The engine's own words when it could not start the program."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an attempt uses of the machine at a moment."""

    at: float
    """When, in seconds since the epoch."""
    cpu_s: float
    """Seconds of CPU time its processes have used since it began, on all cores together."""
    memory_bytes: int
    """Memory they hold, without what the kernel may take back at once."""


@dataclass(frozen=True, slots=True)
class Owned:
    """An attempt found on the executor by its labels."""

    job_id: UUID
    attempt: int
    handle: str


Told = Callable[[str], object]
"""Somebody who hears, in words, how far something is."""


def untold(_: str) -> None:
    """Nobody."""


class Executor(Protocol):
    """Runs attempts. Every method raises ``EngineUnavailable`` when the engine does not answer."""

    name: str

    async def check(self) -> str:
        """Say what answers, e.g. "Docker 20.10.24". Cheap."""
        ...

    async def prepare(self, image: str, told: Told = untold) -> None:
        """Make ``image`` available. While that takes long, ``told`` hears how far it is, perhaps from another thread.

        Raises:
            ImageMissing: it is neither here nor to be had.
        """
        ...

    async def launch(self, spec: LaunchSpec) -> str:
        """Create and start the attempt, or adopt the one of this name; return its handle.

        Adopting means: an attempt of this name that was created but not started is started; a running or exited one
        is left as it is.

        Raises:
            ImageMissing: the image is absent.
            LaunchFailed: the engine refused, with its words.
        """
        ...

    async def inspect(self, handle: str) -> Observation:
        """Look at the attempt now."""
        ...

    async def states(self, handles: Collection[str]) -> dict[str, RunState]:
        """The state of each of these attempts now: one look, however many there are."""
        ...

    def changes(self) -> AsyncGenerator[None]:
        """Yields once it listens, and whenever an attempt may have changed: hints, of which some may be missing.

        Ends at once where the engine tells of nothing, and when it no longer does.
        """
        ...

    async def stop(self, handle: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after ``grace_s`` seconds; returns when it no longer runs.

        Nothing if it is not running, but for one case: an attempt that was created and never started is removed, so
        that nothing can start it afterwards.
        """
        ...

    async def remove(self, handle: str) -> None:
        """Forget the attempt, killing it if need be; returns when it is gone. Nothing if it was."""
        ...

    async def list_owned(self) -> list[Owned]:
        """Every attempt of this saeforge home the executor knows, in whatever state."""
        ...

    async def whose(self, pids: Collection[int], handles: Collection[str]) -> dict[int, str]:
        """Which of these processes of the machine belong to which of these attempts; others are left out."""
        ...

    async def usage(self, handle: str) -> Usage | None:
        """What the attempt uses now; none when it does not run, or the executor cannot tell."""
        ...

    async def facts(self) -> dict[str, str]:
        """What people want to know of the engine: name -> value, e.g. its storage driver. Not for every second."""
        ...

    async def close(self) -> None:
        """Let go of connections. Attempts go on."""
        ...
