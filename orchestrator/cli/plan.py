"""``saeforge plan``: what a training would take, before it is submitted."""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import ExitCode, Json, command, emit, out, printable
from orchestrator.cli.local import found_here
from orchestrator.cli.progress import duration
from orchestrator.cli.submission import mapping_from_file, pair
from orchestrator.client import Client
from orchestrator.domain import Resources
from orchestrator.estimate import Place, gpu_for, only_trainings, training_estimate
from orchestrator.gpus import Gpu
from orchestrator.intake import parse_params, resolve
from orchestrator.inventory import Inventory, model_shape
from orchestrator.settings import Settings
from orchestrator.transport import Unreachable
from orchestrator.views import EstimateView
from orchestrator.views.estimates import AdviceView, PoolView
from worker_image.contract.budget import readable

_POOLS = {"gpu": "GPU memory", "host": "memory", "disk": "disk"}


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("plan")(plan)


@command
def plan(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Parameters of a train_sae job, as YAML or JSON.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter instead of the file's.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="0 to compute on the processor.")] = None,
    gpu_memory_mb: Annotated[
        int | None, typer.Option("--gpu-memory-mb", "--memory-limit", min=64, help="GPU memory there is, in MiB.")
    ] = None,
    memory_mb: Annotated[int | None, typer.Option(min=64, help="Memory there is, in MiB.")] = None,
    local: Annotated[
        bool, typer.Option("--local", help="For this machine, asking no orchestrator; so as well when none answers.")
    ] = False,
    json: Json = False,
) -> ExitCode:
    """Tell the memory, disk, time and cost of a training, and what to lower where it does not fit."""
    params = (mapping_from_file(file) if file else {}) | dict(pair(text) for text in override or [])
    kind = params.pop("type", "train_sae")
    if gpu_memory_mb is not None and gpus is None:
        gpus = 1
    resources = Resources(gpus=gpus, gpu_memory_mb=gpu_memory_mb, memory_mb=memory_mb)
    found = _for_this_machine(kind, params, resources) if local else _asked(kind, params, resources)
    if json:
        emit(found)
    else:
        _show(found)
    return ExitCode.OK if found.fits else ExitCode.BAD_INPUT


def _asked(kind: str, params: dict[str, Any], resources: Resources) -> EstimateView:
    """The orchestrator's estimate, or one for this machine when none answers."""
    try:
        with Client() as client:
            return client.estimate(kind, params, resources=resources)
    except Unreachable as error:
        found = _for_this_machine(kind, params, resources)
        warning = f"{error.message}: this is for this machine, whatever earlier jobs took"
        return found.model_copy(update={"warnings": [*found.warnings, warning]})


def _for_this_machine(kind: str, params: dict[str, Any], resources: Resources) -> EstimateView:
    """Without an orchestrator, so nothing is known of earlier jobs. Where no GPU is here, one with the memory that is
    given stands for it."""
    settings = Settings()
    training = found_here(only_trainings(parse_params(kind, params)))
    inputs = resolve(training, Inventory(settings), also=(Path("/"),))
    gpu = gpu_for(training, resources, _gpus())
    if gpu is None and resources.gpu_memory_mb is not None and training.device != "cpu":
        gpu = Gpu("", 0, f"a GPU of {resources.gpu_memory_mb} MiB", resources.gpu_memory_mb, 0)
    place = Place(
        gpu=gpu,
        cores=resources.cpus or os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        disk_free_bytes=shutil.disk_usage(Path()).free,
    )
    return training_estimate(
        training,
        resources,
        model_shape(inputs["model"]),
        place,
        cache=settings.activation_cache_mb > 0,
        gpu_hour_price=settings.gpu_hour_price,
    )


def _gpus() -> Sequence[Gpu]:
    """Those of this machine, where what sees them is installed."""
    with suppress(ImportError):
        from orchestrator.nvml import GpuProbe

        return GpuProbe()().gpus
    return ()


def _show(found: EstimateView) -> None:
    many = f"{found.saes} SAEs of up to {found.d_sae:,}" if found.saes > 1 else f"{found.d_sae:,}"
    out.print(f"{many} latents on activations of width {found.d_in:,}, on {printable(found.device)}")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold", style="bright_black")
    for pool in found.pools:
        table.add_row(_POOLS[pool.pool], _sum(pool), _parts(pool))
    basis = (
        f"from {found.measured_jobs} earlier jobs" if found.measured_jobs else "from figures on paper; a rough guess"
    )
    table.add_row("time", duration(found.seconds), basis)
    if found.gpu_hours:
        cost = f"costs {found.cost:.2f}" if found.cost is not None else ""
        table.add_row("GPU hours", f"{found.gpu_hours:.2f}", cost)
    out.print(table)
    for pool in found.pools:
        if not pool.fits:
            out.print(Text(f"{_POOLS[pool.pool]} does not suffice: {advised(pool.advice)}", "red"), soft_wrap=True)
    for warning in found.warnings:
        out.print(Text(printable(warning), "yellow"), soft_wrap=True)


def _sum(pool: PoolView) -> Text:
    limit = f" of {readable(pool.limit_bytes)}" if pool.limit_bytes is not None else ""
    return Text(readable(pool.total_bytes) + limit, "" if pool.fits else "red")


def _parts(pool: PoolView) -> str:
    return ", ".join(f"{part.name} {readable(part.size_bytes)}" for part in pool.components if part.size_bytes)


def advised(advice: list[AdviceView]) -> str:
    """What to change, in one line."""
    if not advice:
        return "no single parameter brings it down far enough; lower several"
    return "set " + ", or ".join(
        f"{item.field} to {item.value} (saves {readable(item.saves_bytes)})" for item in advice
    )
