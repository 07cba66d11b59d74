from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from orchestrator import host
from orchestrator.host import Host


class Times(tuple):  # type: ignore[type-arg]
    """As psutil tells the times of a core: a tuple with names."""

    _fields = ("user", "system", "idle", "iowait", "guest")
    idle = property(lambda self: self[2])
    iowait = property(lambda self: self[3])


def test_the_machine_is_told_as_it_is(tmp_path: Path) -> None:
    seen = Host(tmp_path).read()
    assert 0 < seen.memory_used < seen.memory_total
    assert 0 < seen.disk_free <= seen.disk_total
    assert 0 <= seen.inodes_free <= seen.inodes_total
    assert len(seen.core_percent) == psutil.cpu_count()
    assert seen.own_rss > 10_000_000
    assert seen.own_files > 0


def test_shares_are_of_the_time_between_two_looks_and_waiting_for_the_disk_is_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    cores = [Times((0.0, 0.0, 0.0, 0.0, 0.0)), Times((0.0, 0.0, 0.0, 0.0, 0.0))]
    monkeypatch.setattr(host.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: list(cores))
    machine = Host(tmp_path)
    clock.now += 10
    cores[:] = [Times((6.0, 1.5, 2.0, 0.5, 6.0)), Times((0.0, 0.0, 5.0, 5.0, 0.0))]
    seen = machine.read()
    assert seen.core_percent == (75.0, 0.0)
    assert seen.cpu_percent == 37.5


def test_a_look_right_after_another_repeats_its_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Host(tmp_path)
    monkeypatch.setattr(host.time, "monotonic", lambda: machine._at + 0.01)
    assert machine.read().core_percent == machine.read().core_percent == tuple(0.0 for _ in machine._cores)
