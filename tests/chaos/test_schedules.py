"""People submit, pause and change their minds while the orchestrator and the jobs are killed, in any order."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from orchestrator.client import Unreachable
from orchestrator.domain import TERMINAL, JobStatus, Resources, RetryPolicy
from orchestrator.errors import NotFound, StateConflict
from tests.chaos.host import Host
from tests.chaos.inputs import put_inputs
from tests.chaos.story import container, look_at, training
from tests.chaos.worker import STARTS
from tests.waiting import until

SCHEDULES = int(os.environ.get("CHAOS_SCHEDULES", "12"))
"""How many are tried, each from a seed of its own; ``CHAOS_FIRST`` is the first seed."""
FIRST = int(os.environ.get("CHAOS_FIRST", "0"))
ACTIONS = 25
LONGEST_PAUSE_S = 0.15
LONGEST_PURGE_S = 0.02
"""Within which the orchestrator is killed over a purge: about as long as one takes."""
QUICK = RetryPolicy(backoff_s=0.02, max_backoff_s=0.1)


class Schedule:
    """One course of events."""

    def __init__(self, host: Host, seed: int) -> None:
        self.host, self.dice = host, random.Random(seed)
        self.jobs: list[UUID] = []
        self.cancelled: set[UUID] = set()
        """Jobs whose cancel was answered."""
        self.purged: set[UUID] = set()
        """Jobs whose purge was begun; whether it came to anything is known only where it was answered."""

    def act(self) -> None:
        """Do anything at all."""
        actions: dict[Callable[[], None], int] = {
            self.submit: 5,
            lambda: self.ask("pause"): 3,
            lambda: self.ask("resume"): 3,
            lambda: self.ask("stop"): 2,
            lambda: self.ask("cancel"): 1,
            lambda: self.ask("checkpoint"): 1,
            lambda: self.ask("restart"): 1,
            lambda: self.ask("clone"): 1,
            self.purge: 2,
            self.delete_a_checkpoint: 1,
            self.kill_orchestrator: 3,
            self.kill_a_job: 2,
            self.let_be: 6,
        }
        (action,) = self.dice.choices(list(actions), list(actions.values()))
        action()

    def submit(self) -> None:
        steps = self.dice.choice([20, 60, 150])
        common: dict[str, Any] = {"priority": self.dice.choice([0, 0, 5, 10]), "retry": QUICK}
        if self.dice.random() < 0.3:
            resources = Resources(gpus=0, cpus=0.5)
            self.jobs.append(self.host.submit("container", container(steps), resources=resources, **common))
            return
        gpus = self.dice.choice([0, 1, 1, 2])
        shared = 40_000 if gpus == 1 and self.dice.random() < 0.3 else None
        resources = Resources(gpus=gpus, cpus=1, gpu_memory_mb=shared)
        name = self.dice.choice(["plain", "plain", "dies-once"])
        self.jobs.append(self.host.submit("train_sae", training(steps), name=name, resources=resources, **common))

    def ask(self, action: str) -> None:
        """Ask something of a job that may not be in a state for it."""
        if self.jobs:
            job_id = self.dice.choice(self.jobs)
            with suppress(StateConflict, NotFound):
                answer = self.host.ask(lambda client: getattr(client, action)(job_id))
                if action in ("restart", "clone") and answer is not None:
                    self.jobs.append(answer.id)
                if action == "cancel" and answer is not None:
                    self.cancelled.add(job_id)

    def purge(self) -> None:
        """Purge a job, and as often as not kill the orchestrator over it: then nobody knows how far it came."""
        ended = [job_id for job_id in self.jobs if job_id not in self.purged]
        if not ended:
            return
        job_id = self.dice.choice(ended)
        asking = threading.Thread(target=self._purge, args=(job_id,), daemon=True)
        is_fatal = self.dice.random() < 0.5
        delay_s = self.dice.uniform(0, LONGEST_PURGE_S)
        asking.start()
        if is_fatal:
            time.sleep(delay_s)
            self.kill_orchestrator()
        asking.join()

    def _purge(self, job_id: UUID) -> None:
        # Before it is asked for: whoever dies over it may have begun.
        was_known = job_id in self.host.acknowledged
        self.host.acknowledged.discard(job_id)
        try:
            with self.host.client() as client:
                client.purge(job_id)
        except StateConflict:
            if was_known:
                self.host.acknowledged.add(job_id)
            return
        except (NotFound, Unreachable):
            pass
        self.purged.add(job_id)

    def delete_a_checkpoint(self) -> None:
        if self.jobs:
            job_id = self.dice.choice(self.jobs)
            with suppress(StateConflict, NotFound):
                found = self.host.ask(lambda client: client.checkpoints(job_id))
                if found:
                    one = self.dice.choice(found)
                    self.host.ask(lambda client: client.delete_checkpoint(job_id, one.name, attempt=one.attempt))

    def kill_orchestrator(self) -> None:
        self.host.kill()
        if self.dice.random() < 0.5:
            time.sleep(self.dice.uniform(0, LONGEST_PAUSE_S))
        self.host.revive()

    def kill_a_job(self) -> None:
        running = [pid for file in self.host.settings.runs.glob(f"*/*/{STARTS}") if (pid := _running(file))]
        if running:
            with suppress(ProcessLookupError):
                os.kill(self.dice.choice(running), signal.SIGKILL)

    def let_be(self) -> None:
        time.sleep(self.dice.uniform(0, LONGEST_PAUSE_S))

    def come_to_rest(self) -> None:
        """Nobody asks for anything any more, but for paused jobs, which would wait for ever."""

        def over() -> bool:
            page = self.host.ask(lambda client: client.jobs(limit=500))
            assert page is not None
            for job in page.items:
                if job.status is JobStatus.PAUSED or (job.status is JobStatus.PAUSING and job.intent == "pause"):
                    with suppress(StateConflict):
                        self.host.ask(lambda client, job_id=job.id: client.resume(job_id))  # type: ignore[misc]
            return all(job.status in TERMINAL for job in page.items)

        until(over, "every job has ended", timeout_s=60)
        self.host.quiesce()
        self.host.end()


def _running(starts: Path) -> int | None:
    """The attempt's process, if it still runs: its number may be another's by now."""
    pid = int(starts.read_text())
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    return pid if f"SAEFORGE_RUN_DIR={starts.parent}".encode() in environment else None


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SCHEDULES))
def test_nothing_is_lost_in_any_order_of_events(seed: int, host: Host) -> None:
    put_inputs(host.settings)
    host.start()
    schedule = Schedule(host, seed)
    for _ in range(ACTIONS):
        schedule.act()
    schedule.come_to_rest()
    look_at(host, cancelled=schedule.cancelled)
