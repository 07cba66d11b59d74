"""Jobs as programs of the fake engine: the scripted worker, and a container that numbers its lines."""

import asyncio

from orchestrator.executors.fake import FakeProgram, FakeRun
from tests.chaos.worker import Attempt, Died, sign
from worker_image.contract.rundir import RunDir


def train(step_s: float = 0.0) -> FakeProgram:
    """The scripted worker, a step in ``step_s`` seconds."""

    async def play(run: FakeRun) -> int:
        run_dir = RunDir(run.spec.run_dir)
        sign(run_dir.path, run.handle)
        with run_dir.log.open("a") as log:
            attempt = Attempt(run_dir.path, log)
            try:
                for _ in attempt.steps():
                    attempt.terminated = run.terminated.is_set()
                    await asyncio.sleep(step_s)
            except Died:
                return 137
        return 0

    return play


def number(step_s: float = 0.0) -> FakeProgram:
    """A container that numbers its lines, one in ``step_s`` seconds."""

    async def play(run: FakeRun) -> int:
        sign(run.spec.run_dir, run.handle)
        for step in range(1, int(dict(run.spec.env)["STEPS"]) + 1):
            run.write(f"step {step}\n".encode())
            await asyncio.sleep(step_s)
            if run.terminated.is_set():
                return 143
        return 0

    return play
