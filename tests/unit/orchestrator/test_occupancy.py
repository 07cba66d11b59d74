"""Who is on a GPU: asked of the executors, never guessed against a job."""

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from orchestrator.domain import Attempt
from orchestrator.executors.base import LaunchSpec
from orchestrator.executors.fake import FakeEngine, FakeExecutor
from orchestrator.gpus import Gpu, GpuProcess
from orchestrator.occupancy import Occupancy


def gpu(uuid: str, *pids: int) -> Gpu:
    return Gpu(uuid, 0, "H200", 8000, 1000, processes=tuple(GpuProcess(pid, f"p{pid}") for pid in pids))


class Asked(FakeExecutor):
    """Keeps which processes it was asked about."""

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(engine)
        self.asked: list[set[int]] = []

    async def whose(self, pids: Collection[int], handles: Collection[str]) -> dict[int, str]:
        self.asked.append(set(pids))
        return await super().whose(pids, handles)


class Bench:
    """An engine with attempts on GPUs."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.engine.starts_by_itself = False
        self.executor = Asked(self.engine)
        self.occupancy = Occupancy({"fake": self.executor})

    async def attempt(self, *gpus: str, pids: Collection[int] = (), launched: bool = True) -> Attempt:
        job_id = uuid4()
        handle = None
        if launched:
            name = f"saeforge-{job_id}-1"
            handle = await self.executor.launch(LaunchSpec(job_id, 1, name, "image", ("true",), Path("/nowhere")))
            self.engine.run(handle).pids = set(pids)
        return Attempt(job_id, 1, "fake", datetime.now(UTC), handle=handle, gpus=gpus)

    async def seen(self, gpu: Gpu, *live: Attempt) -> list[tuple[int, UUID | None, bool]]:
        found = await self.occupancy.look([gpu], live)
        return [(each.pid, each.job_id, each.foreign) for each in found[gpu.uuid]]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_process_of_the_attempt_that_holds_the_gpu_is_its_jobs(bench: Bench) -> None:
    attempt = await bench.attempt("GPU-a", pids=[11])
    assert await bench.seen(gpu("GPU-a", 11), attempt) == [(11, attempt.job_id, False)]


async def test_a_process_from_outside_is_foreign_on_a_gpu_that_is_leased_as_well(bench: Bench) -> None:
    attempt = await bench.attempt("GPU-a", pids=[11])
    assert await bench.seen(gpu("GPU-a", 11, 99), attempt) == [(11, attempt.job_id, False), (99, None, True)]
    assert await bench.seen(gpu("GPU-b", 99), attempt) == [(99, None, True)]


async def test_of_two_jobs_that_share_a_gpu_each_has_its_own_processes(bench: Bench) -> None:
    one, other = await bench.attempt("GPU-a", pids=[11]), await bench.attempt("GPU-a", pids=[12])
    assert await bench.seen(gpu("GPU-a", 11, 12), one, other) == [(11, one.job_id, False), (12, other.job_id, False)]


async def test_a_job_on_a_gpu_that_it_does_not_hold_is_foreign_there_and_named(bench: Bench) -> None:
    attempt = await bench.attempt("GPU-a", pids=[11])
    assert await bench.seen(gpu("GPU-b", 11), attempt) == [(11, attempt.job_id, True)]


async def test_while_the_engine_is_away_nothing_on_a_leased_gpu_is_called_foreign(bench: Bench) -> None:
    attempt = await bench.attempt("GPU-a", pids=[11])
    bench.engine.down = True
    assert await bench.seen(gpu("GPU-a", 11), attempt) == [(11, None, False)]
    assert await bench.seen(gpu("GPU-b", 99), attempt) == [(99, None, True)]
    bench.engine.down = False
    assert await bench.seen(gpu("GPU-a", 11), attempt) == [(11, attempt.job_id, False)]


async def test_an_attempt_that_is_only_being_launched_has_its_processes_spared(bench: Bench) -> None:
    attempt = await bench.attempt("GPU-a", launched=False)
    assert await bench.seen(gpu("GPU-a", 11), attempt) == [(11, None, False)]


async def test_an_executor_is_asked_once_about_a_process(bench: Bench) -> None:
    attempt = await bench.attempt("GPU-a", pids=[11])
    for _ in range(3):
        await bench.seen(gpu("GPU-a", 11, 99), attempt)
    assert bench.executor.asked == [{11, 99}]


async def test_a_number_that_another_process_has_later_is_asked_about_anew(bench: Bench) -> None:
    one = await bench.attempt("GPU-a", pids=[11])
    await bench.seen(gpu("GPU-a", 11), one)
    await bench.seen(gpu("GPU-a"), one)
    other = await bench.attempt("GPU-a", pids=[11])
    assert await bench.seen(gpu("GPU-a", 11), other) == [(11, other.job_id, False)]


async def test_without_attempts_everybody_is_from_outside(bench: Bench) -> None:
    assert await bench.seen(gpu("GPU-a", 99)) == [(99, None, True)]
