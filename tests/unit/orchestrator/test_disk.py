from pathlib import Path

from orchestrator.disk import Disk

MIB = 1 << 20


def test_with_room_to_spare_nothing_is_said(tmp_path: Path) -> None:
    assert Disk(tmp_path, 100, free=lambda _: 100 * MIB).look() is None


def test_with_too_little_it_says_how_much_there_is_and_which_setting_asks_for_more(tmp_path: Path) -> None:
    said = Disk(tmp_path, 100, free=lambda _: 99 * MIB).look()
    assert said is not None
    assert "99 MiB free" in said
    assert "SAEFORGE_MIN_FREE_MB" in said


def test_a_halt_ends_by_itself_but_only_with_some_room_to_spare(tmp_path: Path) -> None:
    free = 99 * MIB
    disk = Disk(tmp_path, 100, free=lambda _: free)
    assert disk.look()
    free = 101 * MIB
    assert disk.look()
    free = 110 * MIB
    assert disk.look() is None
    free = 101 * MIB
    assert disk.look() is None


def test_a_disk_that_cannot_be_looked_at_is_no_room(tmp_path: Path) -> None:
    assert Disk(tmp_path / "gone", 0).look()
