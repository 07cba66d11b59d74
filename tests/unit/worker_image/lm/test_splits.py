"""Which files of a dataset's repository are for training."""

from pathlib import Path

import pytest

from worker_image.errors import UserError
from worker_image.lm.splits import files_inside, training_files

REPOSITORY = "someone/texts"


def chosen(tmp_path: Path, *names: str, card: str | None = None) -> list[str]:
    readme = tmp_path / "README.md"
    if card is not None:
        readme.write_text(f"---\nlicense: mit\n{card}\n---\n# Texts\n")
    return training_files(REPOSITORY, readme, names)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["data/test-00000-of-00001.parquet", "data/train-00000-of-00002.parquet"], slice(1, 2)),
        (["en/train.jsonl", "en/validation.jsonl"], slice(0, 1)),
        (["train/0.parquet", "train/1.parquet", "validation/0.parquet"], slice(0, 2)),
        (["notes_TRAINING.jsonl", "notes_dev.jsonl"], slice(0, 1)),
        (["constraints.jsonl", "trains.jsonl"], slice(0, 2)),
        (["a.jsonl", "sub/b.jsonl"], slice(0, 2)),
        (["data/train-0.parquet", "training_notes/a.jsonl", "training_notes/validation.jsonl"], slice(0, 1)),
        (["text/train/a/0.parquet", "text/train/b/0.parquet", "text/test/a/0.parquet"], slice(0, 2)),
        (["train-eval.jsonl", "train.jsonl"], slice(1, 2)),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_names_tell_by_whole_words_of_files_before_those_of_directories(
    tmp_path: Path, names: list[str], wanted: slice
) -> None:
    assert chosen(tmp_path, *names) == names[wanted]


def test_a_directory_called_training_makes_no_validation_file_one_for_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the splits validation and none for training") as caught:
        chosen(tmp_path, "training_notes/notes-validation.jsonl")
    assert caught.value.field == "dataset"
    assert caught.value.suggestion == (
        "name what you want of it, such as someone/texts/training_notes/notes-validation.jsonl"
    )


@pytest.mark.parametrize(
    "names",
    [["en/train.jsonl", "fr/train.jsonl"], ["en/train/0.parquet", "fr/train/0.parquet", "fr/test/0.parquet"]],
    ids=["files", "directories"],
)
def test_several_configurations_have_to_be_told_apart(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(UserError, match="several directories: en, fr") as caught:
        chosen(tmp_path, *names)
    assert caught.value.field == "dataset"
    assert caught.value.suggestion == "name what you want of it, such as someone/texts/fr"


CONFIGS = """
configs:
- config_name: small
  data_files:
  - split: train
    path: some/*.parquet
  - {split: test, path: [rest/**]}
"""
NAMES = ("rest/train-0.parquet", "some/a.parquet", "some/deeper/b.parquet")


def test_the_card_is_believed_before_names(tmp_path: Path) -> None:
    assert chosen(tmp_path, *NAMES, card=CONFIGS) == ["some/a.parquet"]


def test_of_several_configurations_the_default_is_taken(tmp_path: Path) -> None:
    other = "- config_name: large\n  default: true\n  data_files: '**/*.parquet'\n"
    assert chosen(tmp_path, *NAMES, card=CONFIGS + other) == list(NAMES)


def test_several_configurations_without_a_default_are_named(tmp_path: Path) -> None:
    other = "- config_name: large\n  data_files: ['rest/*']\n"
    with pytest.raises(UserError, match="the configurations small, large") as caught:
        chosen(tmp_path, *NAMES, card=CONFIGS + other)
    assert caught.value.suggestion == "name what you want of it, such as someone/texts/some/*.parquet"


def test_a_configuration_whose_files_are_of_another_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"in some/\*.parquet, and none of that is"):
        chosen(tmp_path, "other.jsonl", card=CONFIGS)


def test_a_configuration_without_a_split_for_training_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the splits test and none for training"):
        chosen(tmp_path, "a.jsonl", card="configs:\n- config_name: x\n  data_files: [{split: test, path: a.jsonl}]")


@pytest.mark.parametrize("card", ["configs: [{", "configs: 3", "configs: [{config_name: a, data_files: {train: x}}]"])
def test_a_card_that_makes_no_sense_is_the_datasets_fault(tmp_path: Path, card: str) -> None:
    with pytest.raises(UserError, match="in no way that is known") as caught:
        chosen(tmp_path, "a.jsonl", card=card)
    assert caught.value.field == "dataset"


def test_a_card_without_configurations_leaves_it_to_names(tmp_path: Path) -> None:
    assert chosen(tmp_path, "train.jsonl", "test.jsonl", card="tags: [a]") == ["train.jsonl"]


@pytest.mark.parametrize(
    ("inside", "wanted"),
    [
        ("en", ["en/train.jsonl"]),
        ("en/", ["en/train.jsonl"]),
        ("en/test.jsonl", ["en/test.jsonl"]),
        ("*/test.jsonl", ["en/test.jsonl", "fr/test.jsonl"]),
        ("fr", ["fr/test.jsonl"]),
    ],
)
def test_what_is_named_inside_is_taken_and_of_a_directory_what_is_for_training(inside: str, wanted: list[str]) -> None:
    assert files_inside(REPOSITORY, ["en/test.jsonl", "en/train.jsonl", "fr/test.jsonl"], inside) == wanted


def test_nothing_inside_is_told() -> None:
    with pytest.raises(UserError, match=r"no \.parquet or \.jsonl files at de"):
        files_inside(REPOSITORY, ["en/test.jsonl"], "de")
