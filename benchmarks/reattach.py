"""How long a restarted orchestrator takes to look after everything that runs again.

A thousand attempts on an engine in memory: from the start of the program until each was looked at, and then, when all
of them end at once, until each is settled. And some real containers: the orchestrator is killed, half of them are
killed behind its back, and it is started again: until it has told which. Nothing may be lost, ended twice or left over.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import docker
import uvloop

from benchmarks.table import show
from orchestrator.app import create_app
from orchestrator.domain import JobStatus, Resources, RetryPolicy
from orchestrator.executors.base import RunState
from orchestrator.executors.fake import FakeEngine, FakeExecutor, FakeRun
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.supervisor import launch_spec, run_spec
from tests.engine import base_image
from tests.machine import Machine
from tests.unit.orchestrator.jobs import container_job
from tests.waiting import until
from worker_image.contract.rundir import RunDir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=1000, help="on the engine in memory")
    parser.add_argument("--containers", type=int, default=20, help="on Docker; none when 0")
    parser.add_argument("--taking-over", type=Path, metavar="HOME", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.taking_over:
        # On the loop that the orchestrator runs on.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(take_over(given.taking_over, given.attempts))
        return
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory(prefix="saeforge-") as folder:
        asyncio.run(leave_behind(Path(folder) / "fake", given.attempts))
        rows += in_memory(Path(folder) / "fake", given.attempts)
        if given.containers:
            rows.append(real(Path(folder) / "docker", given.containers))
    show("Restarting", ("", "attempts", "seconds", "of a core"), rows)


def settings_for(home: Path, attempts: int) -> Settings:
    return Settings(home=home, cpus=attempts, auth="off")


async def leave_behind(home: Path, attempts: int) -> None:
    """What an orchestrator leaves that is killed while all of these run."""
    settings = settings_for(home, attempts)
    store = await Store.open(settings.database)
    for _ in range(attempts):
        job = await store.submit(container_job())
        attempt = await store.begin_attempt(job, executor="fake", gpus=(), cpus=1)
        RunDir.of(home, job.id, attempt.number).create(run_spec(job, attempt, Settings(home=home)))
        await store.attach(attempt, attempt.name)
        await store.transition(await store.job(job.id), JobStatus.RUNNING, "benchmark")
    await store.close()


def in_memory(home: Path, attempts: int) -> list[tuple[object, ...]]:
    program = [sys.executable, "-m", "benchmarks.reattach", "--attempts", str(attempts), "--taking-over", str(home)]
    began = Moment(time.time(), 0.0)
    done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True)
    loaded, filled, attached, settled = (Moment(*each) for each in json.loads(done.stdout))
    return [
        ("the program is started and its modules are loaded", attempts, *loaded.since(began)),
        ("it takes over: until each attempt was looked at", attempts, *attached.since(filled)),
        ("all of them end: until each is settled", attempts, *settled.since(attached)),
    ]


class Moment(NamedTuple):
    """When something was reached, and what processor time the program had used by then."""

    at: float
    cpu_s: float

    @classmethod
    def now(cls) -> "Moment":
        return cls(time.time(), time.process_time())

    def since(self, earlier: "Moment") -> tuple[float, float]:
        return self.at - earlier.at, self.cpu_s - earlier.cpu_s


class Engine(FakeExecutor):
    """Knows which attempts it was asked about."""

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(engine)
        self.asked = set[str]()
        self.all_asked = asyncio.Event()

    async def states(self, handles: Collection[str]) -> dict[str, RunState]:
        self.asked.update(handles)
        if len(self.asked) == len(self.engine.runs):
            self.all_asked.set()
        return await super().states(handles)


async def take_over(home: Path, attempts: int) -> None:
    """Print when the modules were loaded, the engine was filled, every attempt was looked at, every one was settled."""
    moments = [Moment.now()]
    settings = settings_for(home, attempts)
    executor = Engine(FakeEngine())
    store = await Store.open(settings.database)
    for attempt in await store.live_attempts():
        assert attempt.handle is not None
        spec = launch_spec(await store.job(attempt.job_id), attempt, settings)
        executor.engine.runs[attempt.handle] = FakeRun(spec, attempt.handle, RunState.RUNNING, starts=1)
    await store.close()
    moments.append(Moment.now())
    app = create_app(settings, executor=executor)
    async with app.router.lifespan_context(app):
        store = app.state.orchestrator.store
        await executor.all_asked.wait()
        moments.append(Moment.now())
        assert (await store.count_by_status())[JobStatus.RUNNING] == attempts
        for run in list(executor.engine.runs.values()):
            run.exit(0)
        news = app.state.orchestrator.broker
        while True:
            heard = news.listen()
            if (await store.count_by_status())[JobStatus.COMPLETED] == attempts and not await store.live_attempts():
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(heard.wait(), 0.1)
            await asyncio.sleep(0.02)
        moments.append(Moment.now())
        assert not executor.engine.runs, "containers were left behind"
    print(json.dumps(moments))


def real(home: Path, containers: int) -> tuple[object, ...]:
    machine = Machine(home, "docker")
    machine.environment["SAEFORGE_CPUS"] = "1000"
    machine.start()
    engine = docker.APIClient(version="auto")
    try:
        with machine.client() as client:
            job = {"image": base_image(), "command": ["sleep", "86400"]}
            once = RetryPolicy(max_retries=0)
            jobs = [
                client.submit("container", job, resources=Resources(cpus=1), retry=once).id for _ in range(containers)
            ]
            until(lambda: client.jobs(status="running").total == containers, "all run", timeout_s=300)
        machine.end(signal.SIGKILL)
        killed = jobs[: containers // 2]
        for job_id in killed:
            engine.kill(f"saeforge-{job_id}-1")
        began = time.time()
        machine.start()
        with machine.client() as client:
            until(
                lambda: client.jobs(status="running").total == containers - len(killed), "they are told", timeout_s=60
            )
            took_s = time.time() - began
            ended = {found.id for found in client.jobs(status="failed", limit=1000).items}
            assert ended == set(killed), "another job ended than those that were killed"
    finally:
        engine.close()
        machine.leave()
    return ("on Docker, half of them killed in the meantime: until that is told", containers, took_s, "")


if __name__ == "__main__":
    main()
