"""The identity of a saeforge home."""

from pathlib import Path

from orchestrator.executors.home_id import home_id


def test_a_home_keeps_its_id(tmp_path: Path) -> None:
    assert home_id(tmp_path / "home") == home_id(tmp_path / "home")


def test_two_homes_have_different_ids(tmp_path: Path) -> None:
    assert home_id(tmp_path / "one") != home_id(tmp_path / "two")


def test_nothing_but_the_id_is_left_in_the_home(tmp_path: Path) -> None:
    home_id(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["id"]
