"""Going through tokens without changing anything: progress told, commands obeyed, however often."""

import time
from typing import Literal

from worker_image.contract.commands import Pause, Stop
from worker_image.contract.events import Progress
from worker_image.jobs.bookmark import Bookmark, Bookmarks
from worker_image.jobs.halted import Halted
from worker_image.pace import Pace
from worker_image.reporter import RunContext, Terminated

_PROGRESS_EVERY_S = 1.0
_LOG_EVERY_S = 5.0


class Looking:
    """How far a job is."""

    def __init__(self, run: RunContext, total: int, done: int = 0) -> None:
        """``total``: tokens of all phases together; ``done``: those that an earlier attempt looked at."""
        self._run, self._total = run, total
        self.done = done
        """Tokens looked at."""
        self._pace = Pace()
        self._pace.start()
        self._reported = self._logged = time.monotonic()

    def advance(self, phase: str, tokens: int) -> None:
        """So many tokens were looked at.

        Raises:
            Halted: the job was told to end.
        """
        self.done += tokens
        self._pace.advance(tokens)
        now = time.monotonic()
        if now - self._reported >= _PROGRESS_EVERY_S or self.done >= self._total:
            self._run.emit(
                Progress,
                phase=phase,
                done=self.done,
                total=max(self._total, self.done),
                unit="tokens",
                rate_per_s=self._pace.per_s,
                eta_s=self._pace.seconds_for(max(self._total - self.done, 0)),
            )
            self._reported = now
        if now - self._logged >= _LOG_EVERY_S:
            self._run.log(f"{phase}: {self.done:,}/{self._total:,} tokens  {self._pace.per_s or 0:,.0f} tok/s")
            self._logged = now
        for instruction in self._run.poll():
            if isinstance(instruction, Pause | Stop | Terminated):
                raise Halted(instruction)
            self._run.rejected(instruction, "this job can be paused and stopped")


def halt(run: RunContext, instruction: Pause | Stop | Terminated, bookmarks: Bookmarks, bookmark: Bookmark) -> None:
    """End early: with a bookmark to go on from, unless it is for good.

    Raises:
        OSError: the bookmark could not be written.
    """
    if isinstance(instruction, Stop):
        run.applied(instruction, "stopped")
        run.finish("stopped")
        return
    ending: Literal["paused", "stopped"] = "paused" if isinstance(instruction, Pause) else "stopped"
    name = bookmarks.put(bookmark, "pause" if ending == "paused" else "stop")
    detail = f"{ending} after {bookmark.tokens:,} tokens; {name} is saved"
    run.log(detail)
    run.applied(instruction, detail)
    run.finish(ending)
