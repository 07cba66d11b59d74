"""A disk that fills up under a running orchestrator, and has room again."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import DiskFull
from orchestrator.executors.fake import FakeEngine
from tests.integration.conftest import Orchestrator
from tests.waiting import until
from worker_image.contract.commands import CheckpointNow, command
from worker_image.contract.rundir import RunDir

MIB = 1 << 20
DISK_MIB = 16
LEAST_MIB = 4


class SmallDisk:
    """A home on a disk of its own, and a file that takes the room."""

    def __init__(self, mount: Path) -> None:
        self.home = mount / "home"
        self._filler = mount / "filler"

    def fill(self, leave: int = 0) -> None:
        """Write until only ``leave`` bytes are free."""
        with self._filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(65_536))
            except OSError:
                file.truncate(file.tell() - leave)

    def clear(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    mount = tmp_path / "disk"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", mount], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a disk to fill up has to be mounted, which takes root: {mounted.stderr.strip()}")
    yield SmallDisk(mount)
    subprocess.run(["umount", mount], check=True)


@pytest.fixture
def orchestrator(disk: SmallDisk) -> Iterator[Orchestrator]:
    started = Orchestrator.start(disk.home, FakeEngine(), cpus=4, min_free_mb=LEAST_MIB)
    yield started
    started.stop()


def reason(orchestrator: Orchestrator, job_id: str) -> str | None:
    wait = orchestrator.client.job(job_id).wait
    return wait.reason if wait else None


def test_with_little_room_nothing_starts_and_what_runs_goes_on_until_there_is_room_again(
    disk: SmallDisk, orchestrator: Orchestrator
) -> None:
    running = orchestrator.submit()
    orchestrator.reaches(running, "running")
    disk.fill(leave=LEAST_MIB * MIB // 2)
    waiting = orchestrator.submit()
    until(lambda: reason(orchestrator, waiting) == "disk_full", "it waits for the disk")
    health = orchestrator.client.health()
    assert (health.status, health.ready) == ("degraded", True)
    assert "MiB free" in (health.disk_error or "")
    assert orchestrator.client.system_status().disk_error == health.disk_error
    assert orchestrator.status(running) == "running"
    disk.clear()
    orchestrator.reaches(waiting, "running")
    assert orchestrator.client.health().status == "ok"


def test_on_a_full_disk_a_submit_is_kept_or_refused_and_a_job_that_ends_is_settled_later(
    disk: SmallDisk, orchestrator: Orchestrator
) -> None:
    running = orchestrator.submit()
    orchestrator.reaches(running, "running")
    disk.fill()
    kept, refused = submitted_until_refused(orchestrator)
    assert "SAEFORGE_HOME" in (refused.suggestion or "")
    disk.fill()
    orchestrator.exit(running)
    with pytest.raises(DiskFull):
        orchestrator.submit()
    disk.clear()
    orchestrator.reaches(running, "completed")
    attempts = orchestrator.client.job(running).attempt_list
    assert [attempt.end_reason for attempt in attempts] == ["completed"]
    assert orchestrator.client.jobs().total == len(kept) + 1
    for job_id in kept:
        assert orchestrator.status(job_id) in ("queued", "starting", "running")


def submitted_until_refused(orchestrator: Orchestrator) -> tuple[list[str], DiskFull]:
    kept: list[str] = []
    # What SQLite has already reserved still takes a few.
    while len(kept) < 10_000:
        try:
            kept.append(orchestrator.submit())
        except DiskFull as refused:
            return kept, refused
    raise AssertionError("a full disk refused nothing")


def test_a_command_that_a_full_disk_cut_short_is_delivered_whole_once_there_is_room(orchestrator: Orchestrator) -> None:
    job_id = orchestrator.train()
    orchestrator.reaches(job_id, "running")
    commands = RunDir(orchestrator.run_of(job_id).spec.run_dir).commands
    commands.write_bytes(b'{"type": "checkp')
    orchestrator.client.checkpoint(job_id)
    until(lambda: commands.read_bytes().endswith(b"\n"), "the command is delivered", commands.read_bytes)
    cut_short, whole = commands.read_bytes().splitlines()
    assert cut_short == b'{"type": "checkp'
    assert isinstance(command.validate_json(whole), CheckpointNow)
