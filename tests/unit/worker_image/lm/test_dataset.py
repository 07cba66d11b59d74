"""Several files as one dataset: tables, directories, patterns, and reading on from any document of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from worker_image.errors import UserError
from worker_image.lm.dataset import open_dataset

TEXTS = ["one", "", "two", None, "three", "  ", "four", "five ü"]
WANTED = ["one", "two", "three", "four", "five ü"]


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS, "id": range(8)}), path, row_group_size=3)


def write_arrow_stream(path: Path) -> None:
    table = pa.table({"text": TEXTS})
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def write_arrow_file(path: Path) -> None:
    table = pa.table({"text": pa.array(TEXTS, pa.large_string())})
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def write_lines(path: Path) -> None:
    path.write_text("".join(json.dumps({"text": text or ""}) + "\n" for text in TEXTS))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("data.parquet", write_parquet),
        ("data.arrow", write_arrow_stream),
        ("data.arrow", write_arrow_file),
        ("data.jsonl", write_lines),
    ],
)
def test_reading_continues_from_any_document_of_any_file(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    (tmp_path / "a.txt").write_text("zero\n\nzero and a half\n")
    write(tmp_path / name)
    (tmp_path / "z.txt").write_text("last\n")
    dataset = open_dataset(str(tmp_path), "text")
    dataset.check()
    whole = list(dataset.read())
    assert [document.text for document in whole] == ["zero", "zero and a half", *WANTED, "last"]
    for nth, document in enumerate(whole):
        assert document.start.document == nth
        assert list(dataset.read(document.start)) == whole[nth:]
        assert list(dataset.read(document.end)) == whole[nth + 1 :]


def test_what_datasets_saved_is_read_in_its_own_order(tmp_path: Path) -> None:
    train = tmp_path / "train"
    train.mkdir()
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    write_arrow_stream(train / "data-00001-of-00002.arrow")
    (train / "other.txt").write_text("no part of it")
    (train / "state.json").write_text('{"_data_files": [{"filename": "data-00001-of-00002.arrow"}]}')
    assert [document.text for document in open_dataset(str(tmp_path), "text").read()] == WANTED


def test_splits_without_one_for_training_have_to_be_named(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["validation", "test"]}')
    with pytest.raises(UserError, match="splits validation, test") as caught:
        open_dataset(str(tmp_path), "text")
    assert caught.value.suggestion == f"name one: {tmp_path}/validation"


def test_a_pattern_names_the_files_it_matches(tmp_path: Path) -> None:
    for name in ("b-2.txt", "b-1.txt", "c.txt"):
        (tmp_path / name).write_text(name)
    found = open_dataset(f"{tmp_path}/b-*.txt", "text")
    assert [document.text for document in found.read()] == ["b-1.txt", "b-2.txt"]
    with pytest.raises(UserError, match="no file matches"):
        open_dataset(f"{tmp_path}/d-*.txt", "text")


@pytest.mark.parametrize(("field", "said"), [("body", "its columns: text, id"), ("id", "holds int64")])
def test_a_column_that_holds_no_text_is_named_before_anything_is_read(tmp_path: Path, field: str, said: str) -> None:
    write_parquet(tmp_path / "data.parquet")
    with pytest.raises(UserError, match=said) as caught:
        open_dataset(str(tmp_path / "data.parquet"), field).check()
    assert caught.value.field == "text_field"


@pytest.mark.parametrize("name", ["data.parquet", "data.arrow"])
def test_a_damaged_table_is_the_datasets_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a table")
    with pytest.raises(UserError, match="cannot be read") as caught:
        open_dataset(str(tmp_path / name), "text").check()
    assert caught.value.field == "dataset"


def test_there_are_at_least_as_many_bytes_of_text_as_tokens(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["word " * 1000], "noise": ["x" * 100_000]}), tmp_path / "data.parquet")
    size = open_dataset(str(tmp_path / "data.parquet"), "text").text_bytes
    assert 1000 <= size < 100_000


def test_of_a_hub_dataset_the_files_for_training_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("data/test-0.parquet", "data/train-1.parquet", "data/train-0.parquet"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"text": [name]}), path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    found = open_dataset("someone/texts", "text", network=True)
    assert [document.text for document in found.read()] == ["data/train-0.parquet", "data/train-1.parquet"]


def test_files_inside_a_hub_dataset_are_named_behind_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("en/train.jsonl", "en/test.jsonl", "fr/train.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}))
    fetched: list[list[str]] = []

    def snapshot(repository: str, *, repo_type: str, allow_patterns: list[str]) -> str:
        assert (repository, repo_type) == ("someone/texts", "dataset")
        fetched.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    for inside, wanted in [("en", "en/train.jsonl"), ("fr/*.jsonl", "fr/train.jsonl")]:
        found = open_dataset(f"someone/texts/{inside}", "text", network=True)
        assert [document.text for document in found.read()] == [wanted]
        assert fetched[-1] == [inside, f"{inside}/*"]
    with pytest.raises(UserError, match="several directories: en, fr") as caught:
        open_dataset("someone/texts", "text", network=True)
    assert caught.value.field == "dataset"


def test_a_hub_dataset_that_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(UserError, match="someone/texts cannot be fetched") as caught:
        open_dataset("someone/texts", "text", network=True)
    assert caught.value.field == "dataset"


def test_without_the_network_a_hub_id_is_a_file_that_is_not_there() -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_dataset("someone/texts", "text")
