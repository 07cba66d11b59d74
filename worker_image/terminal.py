"""The terminal of a run without an orchestrator: its log scrolls by above one bar."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from worker_image.contract.events import Progress as ProgressEvent
from worker_image.reporter import Level, formatted

_STYLES: dict[Level, str] = {"info": "", "success": "green", "warning": "yellow", "error": "red"}


class BarDisplay:
    """A bar for the phase under way, with its pace and the time left of the whole job."""

    def __init__(self, console: Console | None = None) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
            TextColumn("{task.fields[pace]}"),
            _TimeLeft(),
            console=console,
            expand=True,
        )
        self._bar: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def line(self, text: str, level: Level) -> None:
        self._bars.console.print(Text(formatted(text, level), style=_STYLES[level]), end="", soft_wrap=True)

    def progress(self, progress: ProgressEvent) -> None:
        pace = "" if progress.rate_per_s is None else f"{progress.rate_per_s:,.4g}/s"
        ends_at = None if progress.eta_s is None else time.monotonic() + progress.eta_s
        if self._bar is None:
            self._bar = self._bars.add_task(progress.phase, total=progress.total, unit="", pace="", ends_at=None)
        self._bars.update(
            self._bar,
            description=progress.phase,
            completed=progress.done,
            total=progress.total,
            unit=progress.unit,
            pace=pace,
            ends_at=ends_at,
        )


class _TimeLeft(ProgressColumn):
    """Counts down between reports."""

    def render(self, task: Task) -> Text:
        ends_at = task.fields["ends_at"]
        if ends_at is None:
            return Text("")
        minutes, seconds = divmod(max(0, round(ends_at - time.monotonic())), 60)
        hours, minutes = divmod(minutes, 60)
        return Text(f"{hours}:{minutes:02}:{seconds:02} left")
