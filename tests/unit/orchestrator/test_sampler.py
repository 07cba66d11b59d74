"""What running attempts use, seen on the fake engine."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.domain import Attempt, EndReason, JobStatus
from orchestrator.executors.base import LaunchSpec, Usage
from orchestrator.executors.fake import FakeEngine, FakeExecutor, FakeRun
from orchestrator.gpus import Gpu, GpuReport
from orchestrator.host import Host
from orchestrator.monitor import Sight
from orchestrator.occupancy import Occupant
from orchestrator.sampler import Sampler
from orchestrator.store import Ended, Store
from tests.unit.orchestrator.jobs import container_job
from worker_image.contract.rundir import RunDir

GPU = Gpu(
    uuid="GPU-0", index=0, name="a GPU", memory_total_mb=80_000, memory_used_mb=900, utilization=0.5, temperature_c=61
)


@dataclass
class Bench:
    store: Store
    engine: FakeEngine
    executor: FakeExecutor
    home: Path
    gpus: tuple[Gpu, ...] = (GPU,)
    occupants: tuple[Occupant, ...] = ()

    def __post_init__(self) -> None:
        self.sampler = Sampler(store=self.store, executors={"fake": self.executor}, look=self.look, sample_s=5)

    async def look(self) -> Sight:
        census = await self.store.census()
        occupants = {gpu.uuid: self.occupants for gpu in self.gpus}
        return Sight(0, Host(self.home).read(), GpuReport(self.gpus), occupants, census)

    async def run(self, gpus: Sequence[str] = (), gpu_memory_mb: int | None = None) -> tuple[Attempt, FakeRun]:
        """An attempt that runs."""
        job = await self.store.submit(container_job())
        attempt = await self.store.begin_attempt(job, executor="fake", gpus=gpus, cpus=1, gpu_memory_mb=gpu_memory_mb)
        run_dir = RunDir.of(self.home, job.id, attempt.number)
        run_dir.path.mkdir(parents=True)
        handle = await self.executor.launch(
            LaunchSpec(job_id=job.id, attempt=1, name=attempt.name, image="i", argv=("a",), run_dir=run_dir.path)
        )
        await self.store.attach(attempt, handle)
        return replace(attempt, handle=handle), self.engine.run(handle)

    async def history(self, attempt: Attempt) -> dict[str, list[float]]:
        found = await self.store.measurements.series(attempt.job_id, "resources", most=100)
        return {series.name: [point.value for point in series.points] for series in found}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    store, engine = await Store.open(tmp_path / "saeforge.db"), FakeEngine()
    yield Bench(store, engine, FakeExecutor(engine), tmp_path)
    await engine.close()
    await store.close()


async def test_cores_are_what_was_used_between_two_looks(bench: Bench) -> None:
    attempt, run = await bench.run()
    for at, cpu_s, memory_bytes in ((100, 7, 5 << 20), (104, 13, 9 << 20), (106, 13.5, 2 << 20)):
        run.usage = Usage(at=at, cpu_s=cpu_s, memory_bytes=memory_bytes)
        await bench.sampler.sample()
    assert await bench.history(attempt) == {
        "cpu_cores": [1.5, 0.25],
        "memory_bytes": [5 << 20, 9 << 20, 2 << 20],
    }
    assert (await bench.store.attempt(attempt.job_id, 1)).peak_memory_mb == 9


async def test_an_engine_that_is_away_leaves_a_gap_and_harms_nobody(bench: Bench) -> None:
    attempt, run = await bench.run()
    for at, down in ((100, False), (105, True), (110, False)):
        bench.engine.down = down
        run.usage = Usage(at=at, cpu_s=at, memory_bytes=1)
        await bench.sampler.sample()
    assert await bench.history(attempt) == {"cpu_cores": [1.0], "memory_bytes": [1, 1]}


async def test_what_does_not_run_is_not_looked_at(bench: Bench) -> None:
    attempt, run = await bench.run()
    job = await bench.store.job(attempt.job_id)
    run.exit(0)
    await bench.sampler.sample()
    await bench.store.finish(attempt, Ended(EndReason.COMPLETED, JobStatus.COMPLETED), seen_as=job)
    await bench.sampler.sample()
    assert await bench.history(attempt) == {}


async def test_a_gpu_of_its_own_counts_wholly_where_its_processes_cannot_be_seen(bench: Bench) -> None:
    attempt, _ = await bench.run(gpus=["GPU-0"])
    await bench.sampler.sample()
    history = await bench.history(attempt)
    assert history["gpu0.memory_bytes"] == history["gpu0.job_memory_bytes"] == [900 << 20]
    assert (history["gpu0.utilization"], history["gpu0.temperature_c"]) == ([0.5], [61])
    assert "gpu0.power_w" not in history
    assert (await bench.store.attempt(attempt.job_id, 1)).peak_gpu_memory_mb == 900


async def test_of_a_shared_gpu_only_its_own_processes_count(bench: Bench) -> None:
    attempt, _ = await bench.run(gpus=["GPU-0"], gpu_memory_mb=500)
    other, _ = await bench.run(gpus=["GPU-0"], gpu_memory_mb=500)
    bench.occupants = (
        Occupant(1, "python", 100, attempt.job_id, foreign=False),
        Occupant(2, "python", 30, attempt.job_id, foreign=False),
        Occupant(3, "python", 400, None, foreign=True),
    )
    await bench.sampler.sample()
    assert (await bench.store.attempt(attempt.job_id, 1)).peak_gpu_memory_mb == 130
    assert (await bench.store.attempt(other.job_id, 1)).peak_gpu_memory_mb is None


async def test_a_lost_gpu_tells_nothing(bench: Bench) -> None:
    attempt, _ = await bench.run(gpus=["GPU-0"])
    bench.gpus = (replace(GPU, lost=True),)
    await bench.sampler.sample()
    assert (await bench.history(attempt)).keys() == {"memory_bytes"}
