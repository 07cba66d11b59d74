"""A running job as a person watches it: one progress display for ``watch`` and the demo."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import STYLES, printable, status_text
from orchestrator.client import Client, JobId
from orchestrator.domain import TERMINAL, JobStatus
from orchestrator.transport import Unreachable
from orchestrator.views import EventView, JobDetail, JobView

SILENCE_S = 2.0
"""After this long without an event the job itself is asked for, which also keeps the reason for waiting fresh."""


@dataclass(frozen=True)
class Snapshot:
    """All that is shown of a job at one moment."""

    name: str
    status: JobStatus
    waiting_for: str = ""
    phase: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    rate_per_s: float | None = None
    ends_at: float | None = None
    """When the whole job should end, seconds since the epoch."""
    metrics: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What happened with this change, for people."""

    @classmethod
    def of(cls, job: JobView) -> Self:
        """What the job itself tells, before any event."""
        first = cls(job.name, job.status, waiting_for=_wait_line(job), metrics=job.metrics or {})
        return first._advanced(job.progress) if job.progress else first

    def after(self, event: EventView) -> Self:
        """What is shown once ``event`` has happened."""
        data = event.data
        now = replace(self, notes=())
        match event.type:
            case "status_changed":
                status = JobStatus(data["to"])
                # What may last for days, with nobody else to say so.
                notes = (f"{status}: {data['reason']}",) if status is JobStatus.PAUSED else ()
                return replace(now, status=status, waiting_for="", notes=notes)
            case "progress":
                return now._advanced(data, at=event.ts)
            case "metrics":
                return replace(now, metrics={**data["values"], "step": data["step"]})
            case "started":
                summary = "  ".join(f"{name}={value}" for name, value in data["summary"].items())
                return replace(now, notes=(f"started on {data['device']}  {summary}",))
            case "checkpoint_saved":
                return replace(now, notes=(f"checkpoint {data['name']} saved",))
            case "message":
                return replace(now, notes=(f"{data['level']}: {data['text']}",))
            case "command_rejected":
                return replace(now, notes=(f"command refused: {data['reason']}",))
            case _:
                return now

    def _advanced(self, progress: dict[str, Any], at: datetime | None = None) -> Self:
        eta_s = progress.get("eta_s")
        since = at.timestamp() if at else time.time()
        return replace(
            self,
            phase=progress["phase"],
            done=progress["done"],
            total=progress["total"],
            unit=progress["unit"],
            rate_per_s=progress.get("rate_per_s"),
            ends_at=None if eta_s is None else since + eta_s,
        )


class Display(Protocol):
    """Shows snapshots as they come."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, snapshot: Snapshot) -> None: ...


def display_on(console: Console) -> "Display":
    """A bar that moves on a terminal, a line now and then anywhere else."""
    return BarDisplay(console) if console.is_terminal else LineDisplay(console)


class BarDisplay:
    """One bar and one line of figures, redrawn in place; notes scroll by above."""

    def __init__(self, console: Console) -> None:
        self._snapshot: Snapshot | None = None
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=5, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        for note in snapshot.notes:
            self._live.console.print(Text(printable(note), style="bright_black"))
        self._snapshot = snapshot

    def _render(self) -> Group:
        snapshot = self._snapshot
        if snapshot is None:
            return Group()
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(no_wrap=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(
            total=snapshot.total or None,
            completed=snapshot.done,
            pulse=snapshot.status is JobStatus.STARTING,
            complete_style=STYLES[snapshot.status][1],
            finished_style=STYLES[snapshot.status][1],
        )
        row.add_row(
            Text.assemble(status_text(snapshot.status), " ", printable(snapshot.phase or snapshot.name)),
            bar if snapshot.total or snapshot.status is JobStatus.STARTING else Text(printable(snapshot.waiting_for)),
            Text(_counts(snapshot)),
        )
        return Group(row, Text("  ".join(_figures(snapshot)), style="bold"))


class LineDisplay:
    """Plain lines for logs and CI: one when something changes, else one every ``every_s`` seconds."""

    def __init__(self, console: Console, every_s: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._every_s = every_s
        self._clock = clock
        self._shown_at = float("-inf")
        self._shown = ""
        self._stage: tuple[JobStatus, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, snapshot: Snapshot) -> None:
        for note in snapshot.notes:
            self._console.print(Text(printable(note)), soft_wrap=True)
        now = self._clock()
        line = line_of(snapshot)
        stage = (snapshot.status, snapshot.phase)
        if stage != self._stage or (now - self._shown_at >= self._every_s and line != self._shown):
            self._shown_at, self._shown, self._stage = now, line, stage
            self._console.print(Text(line), soft_wrap=True)


def line_of(snapshot: Snapshot) -> str:
    """The whole snapshot in one line."""
    parts = [str(snapshot.status)]
    if snapshot.waiting_for:
        parts.append(snapshot.waiting_for)
    if snapshot.phase:
        parts.append(f"{snapshot.phase} {_counts(snapshot)}")
    return printable("  ".join(parts + _figures(snapshot)))


async def watch(
    client: Client, job_id: JobId, display: Display, on_event: Callable[[EventView], None] | None = None
) -> JobDetail:
    """Show the job until it has ended, and return it then; outlasts a restart of the orchestrator."""
    job = await asyncio.to_thread(client.job, job_id)
    snapshot = Snapshot.of(job)
    with display:
        display.show(snapshot)
        async with aclosing(client.afollow_events(job_id)) as events:
            upcoming = asyncio.ensure_future(anext(events))
            try:
                while snapshot.status not in TERMINAL:
                    await asyncio.wait({upcoming}, timeout=SILENCE_S)
                    if upcoming.done():
                        event = upcoming.result()
                        upcoming = asyncio.ensure_future(anext(events))
                        snapshot = snapshot.after(event)
                        if on_event:
                            on_event(event)
                    else:
                        snapshot = await _asked_again(client, job_id, snapshot)
                    display.show(snapshot)
            finally:
                # A generator that still runs cannot be closed.
                upcoming.cancel()
                await asyncio.wait({upcoming})
    return await asyncio.to_thread(client.job, job_id)


async def _asked_again(client: Client, job_id: JobId, known: Snapshot) -> Snapshot:
    try:
        now = Snapshot.of(await asyncio.to_thread(client.job, job_id))
    except Unreachable:
        return replace(known, waiting_for="the orchestrator does not answer; the job goes on without it", notes=())
    if (now.phase, now.done) == (known.phase, known.done):
        # Nothing newer was reported, so the end has not moved either.
        return replace(now, ends_at=known.ends_at)
    return now


def _wait_line(job: JobView) -> str:
    if job.wait is None:
        return ""
    eta = f", about {duration(job.wait.eta_s)}" if job.wait.eta_s is not None else ""
    return f"{job.wait.detail} (place {job.wait.position}{eta})"


def _counts(snapshot: Snapshot) -> str:
    if not snapshot.total:
        return ""
    share = 100 * snapshot.done / snapshot.total
    return f"{snapshot.done:,}/{snapshot.total:,} {snapshot.unit} {share:3.0f} %"


def _figures(snapshot: Snapshot) -> list[str]:
    """Loss, FVU, L0, dead latents, throughput and ETA: those that are known."""
    metrics = snapshot.metrics
    figures = [f"loss {metrics['loss']:.4f}"] if "loss" in metrics else []
    figures += _quality(metrics)
    if "tokens_per_s" in metrics and snapshot.unit != "tokens":
        figures.append(f"{metrics['tokens_per_s']:,.0f} tokens/s")
    elif snapshot.rate_per_s is not None:
        figures.append(f"{snapshot.rate_per_s:,.0f} {snapshot.unit}/s")
    if snapshot.ends_at is not None and snapshot.status is JobStatus.RUNNING:
        figures.append(f"ETA {duration(max(0.0, snapshot.ends_at - time.time()))}")
    return figures


def held_out_line(job: JobView) -> str | None:
    """What the finished SAE scores on text it was not trained on; none before it is measured, or of other jobs."""
    figures = _quality(job.results or {})
    return f"held out: {'  '.join(figures)}" if figures else None


def _quality(values: dict[str, Any]) -> list[str]:
    figures = [f"FVU {values['fvu']:.4f}"] if "fvu" in values else []
    if "l0" in values:
        figures.append(f"L0 {values['l0']:.1f}")
    if "dead_share" in values:
        figures.append(f"dead {100 * values['dead_share']:.1f} %")
    return figures


def duration(seconds: float) -> str:
    """A time span in its two largest units, e.g. "1m 05s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3600:02}h"
