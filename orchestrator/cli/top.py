"""``saeforge top``: the machine, its GPUs, what runs and what waits, as they are now."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import ExitCode, Json, command, emit, err, out, printable, size, status_text
from orchestrator.cli.progress import duration
from orchestrator.client import Client
from orchestrator.domain import ACTIVE, JobStatus
from orchestrator.transport import Unreachable
from orchestrator.views import GpuView, JobView, SystemStatus

MOST_SHOWN = 10
"""Rows of the queue, and processes of a GPU; a longer queue is told by its number."""
_MIB = 1 << 20


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("top")(top)


@dataclass(frozen=True)
class Sight:
    """All that is shown at one moment."""

    system: SystemStatus
    active: list[JobView]
    queued: list[JobView]
    """The first of them, in the order of their turns."""

    @classmethod
    def of(cls, client: Client) -> "Sight":
        system = client.system_status()

        def having(*statuses: JobStatus, limit: int) -> list[JobView]:
            there = [status for status in statuses if system.jobs.get(status)]
            return [job for status in there for job in client.jobs(status=status, limit=limit).items]

        waiting = system.jobs.get(JobStatus.QUEUED)
        return cls(
            system,
            active=having(*sorted(ACTIVE), limit=50),
            queued=client.queue(limit=MOST_SHOWN).items if waiting else [],
        )


@command
def top(
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look once and end; so it does where there is no terminal.")
    ] = False,
    json: Json = False,
) -> ExitCode:
    """Show GPUs with their processes, running jobs and the queue, live until Ctrl-C. With --json, the status once."""
    with Client() as client:
        if json:
            emit(client.system_status())
        elif once or not out.is_terminal:
            out.print(picture(Sight.of(client), out.width))
        else:
            _watch(client, every)
    return ExitCode.OK


def _watch(client: Client, every_s: float) -> None:
    seen = Sight.of(client)
    with Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            live.update(picture(seen, out.width), refresh=True)
            time.sleep(every_s)
            try:
                seen = Sight.of(client)
            except Unreachable as error:
                err.print(Text(error.message, "yellow"))


def picture(seen: Sight, width: int) -> Group:
    """The whole of it."""
    parts: list[RenderableType] = [_machine(seen.system)]
    parts += [Text(), _gpus(seen), Text(), _running(seen.active, width), Text(), _queue(seen, width)]
    return Group(*parts)


def _machine(system: SystemStatus) -> Group:
    engine = Text(system.engine or f"no engine answers: {system.engine_error}", "green" if system.engine else "red")
    load = f"  load {' '.join(f'{value:.1f}' for value in system.load_average)}" if system.load_average else ""
    swap = f"  swap {_of(system.swap_used_mb, system.swap_total_mb)}" if system.swap_total_mb else ""
    lines = [
        Text.assemble(("saeforge ", "bold"), system.version, "  ", engine, f"  up {duration(system.uptime_s)}"),
        Text(
            f"CPU {system.cpu_percent:.0f} % of {len(system.core_percent) or system.cpus:g} cores{load}  "
            f"memory {_of(system.memory_used_mb, system.memory_total_mb)}{swap}  "
            f"disk {size(system.disk_free_mb * _MIB)} free{_cache(system)}"
        ),
        *(Text(printable(problem), "red") for problem in _problems(system)),
    ]
    return Group(*lines)


def _cache(system: SystemStatus) -> str:
    held = system.activation_cache
    return f"  activation cache {size(held.size_bytes)}" if held and held.entries else ""


def _problems(system: SystemStatus) -> Iterator[str]:
    if system.disk_error:
        yield f"nothing new starts: {system.disk_error}"
    if system.gpu_error and system.gpus:
        yield f"the GPUs cannot be seen now: {system.gpu_error}"
    for gpu in system.gpus:
        for problem in gpu.problems:
            yield f"GPU {gpu.index}: {problem}"


def _gpus(seen: Sight) -> RenderableType:
    if not seen.system.gpus:
        return Text(f"no GPU: jobs run on the CPU ({seen.system.gpu_error or 'none was found'})", "bright_black")
    table = _table("GPU", "NAME", ">BUSY", ">MEMORY", ">TEMP", ">POWER", "STATE", "PROCESSES")
    names = {job.id: job.name for job in seen.active}
    for gpu in seen.system.gpus:
        number = str(gpu.index) if gpu.instance is None else f"{gpu.index}:{gpu.instance}"
        limit = f"/{gpu.power_limit_w:.0f}" if gpu.power_limit_w is not None else ""
        table.add_row(
            number,
            printable(gpu.name),
            "-" if gpu.utilization is None else f"{100 * gpu.utilization:.0f} %",
            _of(gpu.memory_used_mb, gpu.memory_total_mb),
            "-" if gpu.temperature_c is None else f"{gpu.temperature_c:.0f} °C",
            "-" if gpu.power_w is None else f"{gpu.power_w:.0f}{limit} W",
            _state(gpu),
            Text("\n").join(_processes(gpu, names)) or Text("-", "bright_black"),
        )
    return table


def _state(gpu: GpuView) -> Text:
    if gpu.lost:
        return Text("LOST", "bold red")
    holders = len(gpu.leased_by) + gpu.leased_by_others
    held = f"leased by {holders}" if holders > 1 else "leased" if holders else "free"
    words = [(held, "blue" if holders else "green")]
    if gpu.foreign_processes:
        words.append((f", {gpu.foreign_processes} foreign", "yellow"))
    if gpu.throttling:
        words.append((f", throttled: {', '.join(gpu.throttling)}", "yellow"))
    return Text.assemble(*words)


def _processes(gpu: GpuView, names: dict[UUID, str]) -> list[Text]:
    shown = []
    for process in gpu.processes[:MOST_SHOWN]:
        memory = "" if process.memory_mb is None else f" {process.memory_mb} MiB"
        whose = "foreign" if process.job_id is None else names.get(process.job_id, str(process.job_id)[:8])
        style = "yellow" if process.foreign else ""
        shown.append(Text(printable(f"{process.pid} {process.name}{memory} ({whose})"), style))
    if len(gpu.processes) > MOST_SHOWN:
        shown.append(Text(f"and {len(gpu.processes) - MOST_SHOWN} more", "bright_black"))
    return shown


def _running(jobs: list[JobView], width: int) -> RenderableType:
    if not jobs:
        return Text("nothing runs", "bright_black")
    table = _table("JOB", "NAME", "STATUS", "PHASE", "", ">DONE", ">RATE", ">ETA")
    for job in jobs:
        told = job.progress or {}
        total, done = told.get("total") or 0, told.get("done") or 0
        rate, eta_s = told.get("rate_per_s"), told.get("eta_s")
        bar = ProgressBar(total=total, completed=done, width=max(8, min(30, width // 6))) if total else Text("")
        table.add_row(
            str(job.id)[:8],
            _short(job.name, 24),
            status_text(job.status),
            _short(job.phase, 24),
            bar,
            f"{100 * done / total:.0f} %" if total else "-",
            f"{rate:,.0f} {told.get('unit', '')}/s" if rate else "-",
            duration(eta_s) if isinstance(eta_s, int | float) else "-",
        )
    return table


def _queue(seen: Sight, width: int) -> RenderableType:
    waiting = seen.system.jobs.get(JobStatus.QUEUED, 0)
    if not waiting:
        return Text("nothing waits", "bright_black")
    oldest = seen.system.queue.oldest_age_s
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(seen.system.queue.by_reason.items()))
    told = f"{waiting} waiting" + (f", the oldest for {duration(oldest)}" if oldest is not None else "")
    table = _table(">PLACE", "JOB", "NAME", "OWNER", ">STARTS IN", "WHY")
    for job in seen.queued[:MOST_SHOWN]:
        wait = job.wait
        table.add_row(
            str(wait.position) if wait else "-",
            str(job.id)[:8],
            _short(job.name, 24),
            _short(job.owner, 16),
            duration(wait.eta_s) if wait and wait.eta_s is not None else "-",
            _short(f"{wait.reason}: {wait.detail}" if wait else "-", max(20, width - 80)),
        )
    return Group(Text(f"{told}  ({reasons})" if reasons else told, "bold"), table)


def _table(*headings: str) -> Table:
    """One whose columns with a heading that begins with ">" are set to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading.removeprefix(">"), justify="right" if heading.startswith(">") else "left")
    return table


def _short(text: str, width: int) -> Text:
    shown = Text(printable(text.strip().partition("\n")[0]))
    shown.truncate(width, overflow="ellipsis")
    return shown


def _of(used_mb: float, total_mb: float) -> str:
    return f"{size(int(used_mb * _MIB))} / {size(int(total_mb * _MIB))}" if total_mb else "-"
