from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from orchestrator.board import Board
from orchestrator.domain import JobStatus, Resources
from orchestrator.gpus import Gpu, GpuProcess, GpuReport
from orchestrator.occupancy import Occupancy
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.store.series import Sample
from tests.unit.orchestrator.jobs import container_job

PID = 4711


class Ours:
    """An executor that knows whose processes are whose."""

    def __init__(self, owners: Mapping[int, str]) -> None:
        self._owners = owners

    async def whose(self, pids: set[int], handles: Sequence[str]) -> dict[int, str]:
        return {pid: self._owners[pid] for pid in pids if self._owners.get(pid) in handles}


class Scene:
    """A board over a real store and a driver that tells what it is told to."""

    def __init__(self, store: Store, home: Path) -> None:
        self.store = store
        self.report = GpuReport()
        occupancy = Occupancy({"fake": Ours({PID: "handle"})})  # type: ignore[dict-item]
        settings = Settings(home=home, cpus=8, memory_mb=1000)
        self.board = Board(store=store, settings=settings, probe=lambda: self.report, occupancy=occupancy)

    def shows(self, used_mb: int, processes: Sequence[GpuProcess] = (), **changes: bool) -> None:
        self.report = GpuReport((Gpu("GPU-a", 0, "H100", 80_000, used_mb, processes=tuple(processes), **changes),))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    store = await Store.open(tmp_path / "saeforge.db")
    yield Scene(store, tmp_path)
    await store.close()


async def test_the_queue_is_followed_and_a_job_purged_unseen_leaves_it(scene: Scene) -> None:
    assert await scene.board.refresh() == set()
    first, second = await scene.store.submit(container_job()), await scene.store.submit(container_job())
    assert await scene.board.refresh() == {first.id, second.id}
    await scene.store.transition(first, JobStatus.CANCELLED, "a test", intent="cancel")
    await scene.store.removals.purge(first.id)
    assert await scene.board.refresh() == {first.id}
    assert set(scene.board.queue) == {second.id}


async def test_a_board_made_anew_finds_the_same_queue(scene: Scene, tmp_path: Path) -> None:
    await scene.board.refresh()
    for priority in (0, 3, 1):
        await scene.store.submit(container_job(priority=priority, owner=f"owner-{priority}"))
        await scene.board.refresh()
    again = Scene(scene.store, tmp_path).board
    await again.refresh()
    assert again.queue.lines() == scene.board.queue.lines()


async def test_what_a_sharer_was_seen_to_use_counts_if_it_is_more_than_it_said(scene: Scene) -> None:
    job = await scene.store.submit(container_job(resources=Resources(gpus=1, gpu_memory_mb=1000)))
    attempt = await scene.store.begin_attempt(job, executor="fake", gpus=["GPU-a"], cpus=1, gpu_memory_mb=1000)
    await scene.store.attach(attempt, "handle")

    async def counted_mb(process_mb: int) -> int | None:
        scene.shows(used_mb=process_mb + 200, processes=[GpuProcess(PID, "python", process_mb)])
        _, (held,), terms = await scene.board.look(engine_error=None, disk_error=None)
        assert not terms.machine.blocked
        assert terms.machine.outside_mb == {"GPU-a": 200}
        return held.gpu_memory_mb

    assert [await counted_mb(process_mb) for process_mb in (500, 3000, 700)] == [1000, 3000, 3000]


async def test_a_gpu_with_processes_from_outside_or_that_is_lost_is_not_to_be_handed_out(scene: Scene) -> None:
    scene.shows(used_mb=900, processes=[GpuProcess(1, "notebook", 900)])
    _, _, terms = await scene.board.look(engine_error=None, disk_error=None)
    assert terms.machine.blocked == {"GPU-a": 1}
    scene.shows(used_mb=0, lost=True)
    _, _, terms = await scene.board.look(engine_error=None, disk_error=None)
    assert terms.machine.lost == {"GPU-a"}


async def test_what_was_seen_before_a_restart_counts_after_it(scene: Scene, tmp_path: Path) -> None:
    job = await scene.store.submit(container_job(resources=Resources(gpus=1, gpu_memory_mb=1000)))
    attempt = await scene.store.begin_attempt(job, executor="fake", gpus=["GPU-a"], cpus=1, gpu_memory_mb=1000)
    await scene.store.measurements.record(attempt, Sample(1, 1.0, {}), memory_mb=None, gpu_memory_mb=3000)
    again = Scene(scene.store, tmp_path)
    again.shows(used_mb=0)
    _, (held,), _ = await again.board.look(engine_error=None, disk_error=None)
    assert held.gpu_memory_mb == 3000


@pytest.mark.parametrize(("granted_mb", "outside_mb"), [(None, 0), (1000, 4000)])
async def test_a_job_whose_processes_are_out_of_sight_uses_what_it_was_granted(
    granted_mb: int | None, outside_mb: int, scene: Scene
) -> None:
    job = await scene.store.submit(container_job(resources=Resources(gpus=1, gpu_memory_mb=granted_mb)))
    await scene.store.begin_attempt(job, executor="fake", gpus=["GPU-a"], cpus=1, gpu_memory_mb=granted_mb)
    scene.shows(used_mb=5000)
    _, _, terms = await scene.board.look(engine_error=None, disk_error=None)
    assert terms.machine.outside_mb == {"GPU-a": outside_mb}
