"""Memory left: of the container's limit or of the machine, whichever is less."""

from pathlib import Path

import pytest

from worker_image.memory import MIB, available_bytes


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine with 900 MiB left, and a process that holds 100 MiB of its own."""
    made = tmp_path / "proc"
    (made / "self").mkdir(parents=True)
    (made / "meminfo").write_text(f"MemTotal: 9999999 kB\nMemAvailable:   {900 * 1024} kB\n")
    (made / "self" / "status").write_text(f"Name:\tpython\nVmRSS:\t{500 * 1024} kB\nRssAnon:\t{100 * 1024} kB\n")
    return made


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    made = tmp_path / "cgroup"
    (made / "memory").mkdir(parents=True)
    return made


def test_without_a_limit_it_is_what_the_machine_has_left(proc: Path, cgroup: Path) -> None:
    assert available_bytes(proc, cgroup) == 900 * MIB


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_of_a_lower_limit_what_the_process_holds_is_taken(proc: Path, cgroup: Path, name: str) -> None:
    (cgroup / name).write_text(f"{600 * MIB}\n")
    assert available_bytes(proc, cgroup) == 500 * MIB


@pytest.mark.parametrize(
    ("name", "limit"), [("memory.max", "max\n"), ("memory/memory.limit_in_bytes", "9223372036854771712\n")]
)
def test_a_group_without_a_limit_does_not_count(proc: Path, cgroup: Path, name: str, limit: str) -> None:
    (cgroup / name).write_text(limit)
    assert available_bytes(proc, cgroup) == 900 * MIB


def test_where_nothing_can_be_told_nothing_is(tmp_path: Path) -> None:
    assert available_bytes(tmp_path / "nowhere", tmp_path / "nowhere") is None
