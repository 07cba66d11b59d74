"""A run that keeps what it is told and hands over what the test scripted."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from worker_image.contract.events import Event, Failure, Finished, Metrics
from worker_image.reporter import Instruction, Level, NullRun, Outcome, finite

E = TypeVar("E", bound=BaseModel)


class RecordingRun(NullRun):
    """``script`` gives the instructions of each poll from the events so far."""

    def __init__(
        self,
        folder: Path,
        inputs: dict[str, str],
        script: Callable[["RecordingRun"], list[Instruction]] = lambda run: [],
        resume_from: Path | None = None,
    ) -> None:
        super().__init__(folder, inputs, resume_from)
        self.events: list[BaseModel] = []
        self.lines: list[tuple[Level, str]] = []
        self.answers: list[tuple[str, Instruction, str]] = []
        self._script = script

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def finished(self) -> Finished:
        return self.of(Finished)[-1]

    def emit(self, event: type[Event], **fields: object) -> None:
        self.events.append(event(seq=len(self.events) + 1, ts=0.0, **fields))

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.emit(Metrics, step=step, values=finite(values))

    def log(self, text: str, level: Level = "info") -> None:
        self.lines.append((level, text))

    def notify(self, text: str, level: Level) -> None:
        self.log(text, level)

    def poll(self) -> list[Instruction]:
        return self._script(self)

    def applied(self, instruction: Instruction, detail: str = "", step: int | None = None) -> None:
        self.answers.append(("applied", instruction, detail))

    def rejected(self, instruction: Instruction, reason: str) -> None:
        self.answers.append(("rejected", instruction, reason))

    def finish(
        self, outcome: Outcome, *, failure: Failure | None = None, results: dict[str, float] | None = None
    ) -> None:
        self.emit(Finished, outcome=outcome, failure=failure, results=results or {})
