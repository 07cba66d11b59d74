#!/usr/bin/env python3
"""The demo: train a sparse autoencoder on a real model and real text, and watch it. ``make demo`` runs this.

    python scripts/demo.py [--once] [--steps N]

SAEFORGE_HOME (./.saeforge when empty), SAEFORGE_EXECUTOR, SAEFORGE_PORT and SAEFORGE_DASHBOARD_PORT are heeded. The
figures are left in <home>/demo.json; the exit status is that of ``saeforge watch``.
"""

import argparse
import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import demo_data
from rich.table import Table

from orchestrator.api.auth import api_key
from orchestrator.cli.console import ExitCode, complain, exit_code_of, out, outcome_of, size, status_text
from orchestrator.cli.following import say_outcome
from orchestrator.cli.progress import display_on, duration, watch
from orchestrator.cli.server import address, die_with_parent
from orchestrator.client import Client
from orchestrator.doctor import port_problem
from orchestrator.domain import JobStatus
from orchestrator.errors import OrchestratorError
from orchestrator.settings import Settings, read_settings
from orchestrator.transport import Unreachable
from orchestrator.views import ArtifactView, JobDetail

ROOT = Path(__file__).resolve().parent.parent
PARAMS = Path(__file__).with_name("demo_params.json")
START_S = 60.0
STOP_S = 20.0


@dataclass(frozen=True)
class Servers:
    """The orchestrator and its dashboard, as this demo started them."""

    process: subprocess.Popen[bytes]
    log: Path
    api: str
    dashboard: str


class DemoFailed(Exception):
    """The demo cannot go on; the message says why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--once", action="store_true", help="exit when the job has ended")
    parser.add_argument("--steps", type=int, help="train for fewer steps (a worse SAE, sooner)")
    options = parser.parse_args()
    # Ending a child process needs the same care whichever signal asks for it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(once=options.once, steps=options.steps)
    except KeyboardInterrupt:
        out.print("interrupted; everything this demo started is stopped")
        return ExitCode.INTERRUPTED
    except OrchestratorError as error:
        complain(error)
        return exit_code_of(error)
    except (DemoFailed, subprocess.CalledProcessError) as error:
        out.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return ExitCode.ORCHESTRATOR_ERROR


def run(*, once: bool, steps: int | None) -> int:
    """Prepare, train, report; return the exit status."""
    began = time.monotonic()
    os.environ.setdefault("SAEFORGE_HOME", str(ROOT / ".saeforge"))
    settings = with_free_ports(read_settings(Settings, executor=choose_executor()))
    with image_being_built() if settings.executor == "docker" else no_image() as image:
        say("model", str(demo_data.prepare_model(settings.home)))
        say("corpus", str(demo_data.prepare_corpus(settings.home)))
        image.finish()
    is_new = settings.find_api_key() is None
    key = api_key(settings)
    if is_new:
        say("API key", f"{key}  (shown once; kept in {settings.key_file})")
    with servers(settings) as running, Client(running.api, key) as client:
        say("API", f"{running.api}/docs")
        say("dashboard", running.dashboard)
        ended = train(client, parameters(steps))
        artifacts = client.artifacts(ended.id)
        report(settings, ended, artifacts, running, time.monotonic() - began, stays=not once)
        if not once:
            stay(running)
    return outcome_of(ended)


def choose_executor() -> str:
    """Docker where an engine answers, else plain processes, said in one line; SAEFORGE_EXECUTOR goes before both."""
    wanted = os.environ.get("SAEFORGE_EXECUTOR", "auto")
    if wanted != "auto":
        say("executor", f"{wanted} (SAEFORGE_EXECUTOR)")
        return wanted
    if not engine_answers():
        say("executor", "plain processes without isolation, as no Docker engine answers ('make demo DOCKER=install')")
        return "process"
    say("executor", "Docker")
    return "docker"


def engine_answers() -> bool:
    """Asked as the Makefile does, which has installed what follows from the answer."""
    try:
        return subprocess.run(["docker", "version"], capture_output=True, timeout=10, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def with_free_ports(settings: Settings) -> Settings:
    """The settings with any port that is taken replaced by a free one, and said so."""
    changed: dict[str, int] = {}
    for name, host in (("port", settings.host), ("dashboard_port", settings.dashboard_host)):
        taken: int = getattr(settings, name)
        if port_problem(host, taken) is not None:
            with socket.create_server((host, 0)) as probe:
                changed[name] = probe.getsockname()[1]
            say("port", f"{taken} is taken, using {changed[name]} instead")
    return settings.model_copy(update=changed)


class Image:
    """The worker's image on its way."""

    def __init__(self, build: "subprocess.Popen[bytes] | None") -> None:
        self._build = build

    def finish(self) -> None:
        """Wait for it.

        Raises:
            DemoFailed: it could not be built.
        """
        if self._build is None:
            return
        if self._build.wait() != 0:
            raise DemoFailed("the worker image could not be built; the lines above say why")
        say("image", "ready")


@contextmanager
def no_image() -> Iterator[Image]:
    yield Image(None)


@contextmanager
def image_being_built() -> Iterator[Image]:
    """Build it while other things are prepared."""
    say("image", "building the worker image if anything in it changed; the first time takes some minutes")
    # "make image" is quick when nothing has changed, and ends here with the installation that this demo runs on.
    build = subprocess.Popen(["make", "--silent", "--no-print-directory", "-C", ROOT, "image"], start_new_session=True)
    try:
        yield Image(build)
    finally:
        if build.poll() is None:
            os.killpg(build.pid, signal.SIGTERM)
            build.wait()


@contextmanager
def servers(settings: Settings) -> Iterator[Servers]:
    """Orchestrator and dashboard, up for as long as the block lasts."""
    log = settings.home / "orchestrator.log"
    environment = {
        "SAEFORGE_HOME": str(settings.home),
        "SAEFORGE_PORT": str(settings.port),
        "SAEFORGE_DASHBOARD_PORT": str(settings.dashboard_port),
        "SAEFORGE_EXECUTOR": settings.executor,
    }
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli", "up"],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches this process alone, which ends the others in order.
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    running = Servers(
        process,
        log,
        address(settings.host, settings.port),
        address(settings.dashboard_host, settings.dashboard_port),
    )
    try:
        await_health(running)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_health(running: Servers) -> None:
    """Return once the API answers.

    Raises:
        DemoFailed: it ended, or did not answer in time.
    """
    deadline = time.monotonic() + START_S
    with Client(running.api, retries=0, timeout_s=2) as client:
        while time.monotonic() < deadline:
            if running.process.poll() is not None:
                last_words = "\n".join(running.log.read_text(errors="replace").splitlines()[-15:])
                raise DemoFailed(f"the orchestrator did not start:\n{last_words}")
            with suppress(Unreachable):
                client.health()
                return
            time.sleep(0.1)
    raise DemoFailed(f"the orchestrator did not answer within {START_S:.0f} s; see {running.log}")


def parameters(steps: int | None) -> dict[str, Any]:
    """The job's parameters, scaled down when fewer steps are asked for."""
    params: dict[str, Any] = json.loads(PARAMS.read_text())
    if steps is not None:
        params["steps"] = steps
        params["max_tokens"] = min(params["max_tokens"], steps * params["batch_size"])
        params["warmup_steps"] = min(params.get("warmup_steps", 0), steps)
    return params


def train(client: Client, params: dict[str, Any]) -> JobDetail:
    """Submit the job and watch it to its end; an interrupt cancels it."""
    job = client.submit("train_sae", params, name="demo", tags=["demo"])
    say("job", str(job.id))
    try:
        ended = asyncio.run(watch(client, job.id, display_on(out)))
    except BaseException:
        with suppress(OrchestratorError):
            client.cancel(job.id)
            client.wait(job.id, timeout_s=STOP_S, poll_s=0.2)
        raise
    if ended.failure:
        say_outcome(ended)
    return ended


def report(
    settings: Settings, job: JobDetail, artifacts: list[ArtifactView], running: Servers, total_s: float, *, stays: bool
) -> None:
    """The figures: a short table here, the same in demo.json."""
    results = job.results or {}
    wall_s = (job.completed_at - job.started_at).total_seconds() if job.completed_at and job.started_at else None
    paths = [str(Path(job.result_path or "") / artifact.path) for artifact in artifacts]
    figures = {
        "job_id": str(job.id),
        "status": str(job.status),
        "failure": job.failure.model_dump(mode="json") if job.failure else None,
        "executor": settings.executor,
        **{name: results.get(name) for name in ("fvu", "l0", "dead_share", "alive_latents")},
        "wall_s": wall_s,
        "total_s": round(total_s, 3),
        "results": results,
        "artifacts": paths,
        "log": job.log_path,
        "api": running.api,
        "dashboard": running.dashboard,
    }
    draft = settings.home / "demo.tmp"
    draft.write_text(json.dumps(figures, indent=2) + "\n")
    draft.replace(settings.home / "demo.json")

    # Without a frame even a run directory stays in one piece on 80 columns.
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("job", status_text(job.status))
    if job.status is JobStatus.COMPLETED and results:
        table.add_row("FVU held out", f"{results['fvu']:.4f}")
        table.add_row("L0", f"{results['l0']:.1f}")
        table.add_row("dead share", f"{100 * results['dead_share']:.2f} %")
        table.add_row("alive", f"{results['alive_latents']:,.0f} latents")
    if wall_s is not None:
        table.add_row("wall time", f"{duration(wall_s)} of training, {duration(total_s)} in all")
    if paths:
        table.add_row("artifacts", f"{short(Path(job.result_path or ''))}/")
        for artifact in artifacts:
            table.add_row("", f"{artifact.path}  {size(artifact.size_bytes)}")
    table.add_row("figures", short(settings.home / "demo.json"))
    again = f"SAEFORGE_HOME={shlex.quote(short(settings.home))} make up shows it again"
    table.add_row("dashboard", running.dashboard if stays else again)
    out.print()
    out.print(table)


def short(path: Path) -> str:
    """Relative where it lies below the working directory."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def stay(running: Servers) -> None:
    """Keep the dashboard up until Ctrl-C."""
    out.print(f"The dashboard stays up at {running.dashboard} until Ctrl-C.", style="bold", soft_wrap=True)
    try:
        running.process.wait()
        raise DemoFailed(f"the orchestrator ended; see {running.log}")
    except KeyboardInterrupt:
        out.print("stopping")


def say(name: str, text: str) -> None:
    out.print(f"{name:<10}", end="", style="bright_black")
    out.print(text, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
