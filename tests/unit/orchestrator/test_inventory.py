"""What a reference to a dataset means, and what it may not mean."""

from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.inventory import Inventory, plain_part
from orchestrator.settings import Settings


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Datasets: a file, a directory of two, and one that ``datasets`` saved."""
    datasets = tmp_path / "datasets"
    for name in ("one.jsonl", "web/a.parquet", "web/b.parquet", "saved/train/data-00000.arrow"):
        (datasets / name).parent.mkdir(parents=True, exist_ok=True)
        (datasets / name).write_text("content")
    (datasets / "saved" / "dataset_dict.json").write_text("{}")
    (tmp_path / "outside.jsonl").write_text("content")
    return tmp_path


def resolve(home: Path, value: str, *, network: bool = False) -> str:
    return Inventory(Settings(home=home)).resolve("dataset", "params.dataset", value, network=network)


def refusal(home: Path, value: str, *, network: bool = False) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        resolve(home, value, network=network)
    return caught.value


def test_what_datasets_saved_is_one_dataset_and_plain_files_are_one_each(home: Path) -> None:
    found = Inventory(Settings(home=home)).datasets()
    assert [(entry.name, entry.detail["format"]) for entry in found] == [
        ("one.jsonl", "jsonl"),
        ("saved", "datasets"),
        ("web/a.parquet", "parquet"),
        ("web/b.parquet", "parquet"),
    ]


@pytest.mark.parametrize("value", ["one", "one.jsonl", "web", "web/a", "saved", "saved/train"])
def test_a_name_means_a_file_or_a_directory(home: Path, value: str) -> None:
    found = Path(resolve(home, value))
    assert found.exists()
    assert found.is_relative_to(home / "datasets")


def test_a_pattern_stays_one_behind_a_real_directory(home: Path) -> None:
    found = resolve(home, "web/*.parquet")
    assert found == f"{home}/datasets/web/*.parquet"
    assert plain_part(found) == home / "datasets" / "web"


def test_a_name_that_looks_like_a_pattern_and_exists_is_none(home: Path) -> None:
    (home / "datasets" / "odd[1].jsonl").write_text("content")
    found = resolve(home, "odd[1].jsonl")
    assert plain_part(found) == Path(found)


@pytest.mark.parametrize("value", ["../*.jsonl", "web/../../*.jsonl", "/etc/*.txt", "*/../../outside.jsonl"])
def test_a_pattern_leads_to_nothing_outside(home: Path, value: str) -> None:
    assert refusal(home, value).field == "params.dataset"


@pytest.mark.parametrize("value", ["web/*.csv", "nothing/*.jsonl"])
def test_a_pattern_that_matches_nothing_is_refused(home: Path, value: str) -> None:
    assert refusal(home, value).field == "params.dataset"


def test_a_pattern_that_matches_other_files_is_refused(home: Path) -> None:
    (home / "datasets" / "web" / "readme.md").write_text("content")
    assert "readme.md" in refusal(home, "web/*").message


def test_a_directory_without_texts_is_refused(home: Path) -> None:
    (home / "datasets" / "empty").mkdir()
    assert "is a directory without" in refusal(home, "empty").message


def test_a_hub_id_needs_the_network(home: Path) -> None:
    assert resolve(home, "someone/texts", network=True) == "someone/texts"
    assert "network" in (refusal(home, "someone/texts").suggestion or "")
    assert refusal(home, "texts", network=True).field == "params.dataset"


@pytest.mark.parametrize("inside", ["en", "en/train.jsonl", "data/train-*.parquet"])
def test_so_do_files_inside_one(home: Path, inside: str) -> None:
    assert resolve(home, f"someone/texts/{inside}", network=True) == f"someone/texts/{inside}"
    assert refusal(home, f"someone/texts/{inside}").field == "params.dataset"


def test_a_pattern_that_matches_here_is_no_hub_id_even_with_the_network(home: Path) -> None:
    assert resolve(home, "web/*.parquet", network=True) == str(home / "datasets" / "web" / "*.parquet")


def test_a_path_out_of_the_datasets_is_no_hub_id(home: Path) -> None:
    assert "outside" in refusal(home, "someone/../../../texts", network=True).message
