"""A run's checkpoints: when one is due, what is told of it once it is on disk, and which are deleted then."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from worker_image.contract.events import CheckpointRemoved, CheckpointSaved
from worker_image.contract.retention import Keepable, doomed
from worker_image.contract.train_sae import TrainSaeParams
from worker_image.memory import MIB, available_bytes
from worker_image.reporter import Instruction, RunContext
from worker_image.sae.checkpoint import (
    CheckpointCorrupt,
    CheckpointState,
    SavedCheckpoint,
    kept_in,
    verify_checkpoint,
)
from worker_image.sae.checkpoint_writer import CheckpointWriter

Reason = Literal["interval", "command", "pause", "stop", "final", "error", "anomaly"]

_LEFT_ALONE_BYTES = 256 * MIB
"""Memory that copies of the state must leave to everything else."""


@dataclass(frozen=True)
class Moment:
    """What tells one state from another: between two steps nothing else that training depends on can change."""

    step: int
    changes: int
    """How many changes of parameters were made."""


@dataclass(frozen=True)
class _Wanted:
    moment: Moment
    reason: Reason
    command: Instruction | None


class Checkpoints:
    """Writes them beside training, one at a time. Errors of writing show at the next call of any method."""

    def __init__(self, run: RunContext, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._clock = clock
        self._writer = CheckpointWriter(run.checkpoints, _spare_bytes)
        self._last: tuple[Moment, SavedCheckpoint] | None = None
        self._announced = ""
        self._saved_at = clock()
        origin = run.resume_from
        goes_on_here = origin is not None and origin.parent == run.checkpoints
        self._in_use = {origin.name} if origin is not None and goes_on_here else set()
        self._has_first = origin is None or goes_on_here or bool(run.earlier)
        """Whether the first checkpoint of the training is the job's, and not that of one it was restarted from."""

    @property
    def newest(self) -> str | None:
        """Name of the newest one to continue from, be it an earlier attempt's; None when there is none."""
        if self._last is not None:
            return self._last[1].path.name
        return self._run.resume_from.name if self._run.resume_from else None

    def is_due(self, step: int, params: TrainSaeParams) -> bool:
        """Whether one is to be written after this step because of its number, or of the time since the last one."""
        every, minutes = params.checkpoint_every_steps, params.checkpoint_every_minutes
        by_step = every is not None and step % every == 0
        return by_step or (minutes is not None and self._clock() - self._saved_at >= 60 * minutes)

    def reserve(self, state: CheckpointState) -> None:
        """Make room for copies of such a state, beside training."""
        self._writer.reserve(state)

    def save(
        self,
        moment: Moment,
        state: Callable[[], CheckpointState],
        params: TrainSaeParams,
        reason: Reason,
        command: Instruction | None = None,
    ) -> None:
        """Begin to write a checkpoint; ``tend`` tells of it when it is on disk, and answers ``command``."""
        self._put(self._writer.save, moment, state, params, _Wanted(moment, reason, command))

    def save_and_wait(
        self, moment: Moment, state: Callable[[], CheckpointState], params: TrainSaeParams, reason: Reason
    ) -> str:
        """Write a checkpoint before anything else happens; return its name."""
        self._put(self._writer.save_and_wait, moment, state, params, _Wanted(moment, reason, None))
        self.settle(params)
        return self._announced

    def _put(
        self,
        write: Callable[[CheckpointState, object], None],
        moment: Moment,
        state: Callable[[], CheckpointState],
        params: TrainSaeParams,
        wanted: _Wanted,
    ) -> None:
        self.settle(params)
        self._saved_at = self._clock()
        if self._last and self._last[0] == moment and wanted.reason != "anomaly" and _intact(self._last[1]):
            self._announce(wanted, self._last[1], params)
        else:
            write(state(), wanted)

    def tend(self, params: TrainSaeParams) -> None:
        """Tell of the checkpoint that is on disk since the last call. Cheap enough for every step.

        Raises:
            OSError: one could not be written or deleted.
        """
        if (done := self._writer.poll()) is not None:
            self._taken(done, params)

    def settle(self, params: TrainSaeParams) -> None:
        """Wait for the one that is being written.

        Raises:
            OSError: it could not be written.
        """
        if (done := self._writer.wait()) is not None:
            self._taken(done, params)

    def close(self) -> None:
        """Let the writer go.

        Raises:
            OSError: something could not be deleted.
        """
        self._writer.close()

    def _taken(self, done: tuple[object, SavedCheckpoint], params: TrainSaeParams) -> None:
        wanted, saved = done
        assert isinstance(wanted, _Wanted)
        if wanted.reason != "anomaly":
            self._last = (wanted.moment, saved)
        self._announce(wanted, saved, params)

    def _announce(self, wanted: _Wanted, saved: SavedCheckpoint, params: TrainSaeParams) -> None:
        name = self._announced = saved.path.name
        self._run.emit(
            CheckpointSaved,
            name=name,
            step=saved.step,
            loss=saved.loss,
            held_out_loss=saved.held_out_loss,
            size_bytes=saved.size_bytes,
            digest=saved.digest,
            reason=wanted.reason,
        )
        self._run.log(f"checkpoint {name} saved ({saved.size_bytes / 1e6:.1f} MB, {wanted.reason})")
        if wanted.command is not None:
            self._run.applied(wanted.command, f"{name} is saved", saved.step)
        # Not before it is announced: who continues the job knows only of those that were.
        policy = replace(params.retention, first=self._has_first)
        own = kept_in(self._run.checkpoints)
        in_use = [one for one in own if one.name in {*self._in_use, name}]
        there: list[Keepable] = [*self._run.earlier, *own]
        gone = doomed(there, policy, in_use)
        for old in own:
            if old in gone:
                self._run.emit(CheckpointRemoved, name=old.name)
                self._writer.delete(self._run.checkpoints / old.name)


def _spare_bytes() -> int | None:
    available = available_bytes()
    return None if available is None else available - _LEFT_ALONE_BYTES


def _intact(saved: SavedCheckpoint) -> bool:
    try:
        verify_checkpoint(saved.path)
    except CheckpointCorrupt:
        return False
    return True
