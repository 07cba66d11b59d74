"""Going through tokens without changing anything: progress told, commands obeyed, however often."""

import time

from worker_image.contract.commands import Pause, Stop
from worker_image.contract.events import Progress
from worker_image.pace import Pace
from worker_image.reporter import RunContext, Terminated

_PROGRESS_EVERY_S = 1.0
_LOG_EVERY_S = 5.0


class Halted(Exception):
    """The job was told to end early."""

    def __init__(self, instruction: Pause | Stop | Terminated) -> None:
        super().__init__(instruction)
        self.instruction = instruction


class Looking:
    """How far a job is that keeps nothing to go on from: paused, it begins anew."""

    def __init__(self, run: RunContext, total: int) -> None:
        """``total``: tokens of all phases together."""
        self._run, self._total = run, total
        self._done = 0
        self._pace = Pace()
        self._pace.start()
        self._reported = self._logged = time.monotonic()

    def advance(self, phase: str, tokens: int) -> None:
        """So many tokens were looked at.

        Raises:
            Halted: the job was told to end.
        """
        self._done += tokens
        self._pace.advance(tokens)
        now = time.monotonic()
        if now - self._reported >= _PROGRESS_EVERY_S or self._done >= self._total:
            self._run.emit(
                Progress,
                phase=phase,
                done=self._done,
                total=max(self._total, self._done),
                unit="tokens",
                rate_per_s=self._pace.per_s,
                eta_s=self._pace.seconds_for(max(self._total - self._done, 0)),
            )
            self._reported = now
        if now - self._logged >= _LOG_EVERY_S:
            self._run.log(f"{phase}: {self._done:,}/{self._total:,} tokens  {self._pace.per_s or 0:,.0f} tok/s")
            self._logged = now
        for instruction in self._run.poll():
            if isinstance(instruction, Pause | Stop | Terminated):
                raise Halted(instruction)
            self._run.rejected(instruction, "this job can be paused and stopped")


def halt(run: RunContext, instruction: Pause | Stop | Terminated) -> None:
    """End early, with nothing to show."""
    if isinstance(instruction, Pause):
        run.applied(instruction, "paused; it begins anew when it is resumed")
        run.finish("paused")
    else:
        run.applied(instruction, "stopped")
        run.finish("stopped")
