"""Reading documents: what counts as one, where it stands, and what is said about a broken file."""

from pathlib import Path

import pytest

from worker_image.errors import UserError
from worker_image.lm.dataset import Dataset, open_dataset


def document_file(folder: Path, content: str | bytes, name: str = "data.jsonl", field: str = "text") -> Dataset:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Dataset("data", [path], field)


def test_each_json_line_is_a_document_and_blank_ones_are_not(tmp_path: Path) -> None:
    file = document_file(tmp_path, '{"text": "one"}\n\n{"text": "  "}\n{"text": "two"}\n')
    assert [document.text for document in file.read()] == ["one", "two"]


def test_a_text_file_is_split_at_blank_lines(tmp_path: Path) -> None:
    file = document_file(tmp_path, "one\nstill one\n\n \ntwo", "data.txt")
    assert [document.text for document in file.read()] == ["one\nstill one", "two"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("data.jsonl", '{"text": "a"}\n\n{"text": "b"}\n{"text": "ü"}'), ("data.txt", "a\n\n\nb\nb\n\nü\n")],
)
def test_reading_continues_from_any_document(tmp_path: Path, name: str, content: str) -> None:
    file = document_file(tmp_path, content, name)
    whole = list(file.read())
    assert len(whole) == 3
    for nth, document in enumerate(whole):
        assert document.start.document == nth
        assert list(file.read(document.end)) == whole[nth + 1 :]


@pytest.mark.parametrize(
    ("content", "field", "said"),
    [
        ('{"text": "a"}\n{"text": \n', "dataset", "line 2"),
        ('{"text": "a"}\n[1]\n', "dataset", "line 2"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "dataset", "line 2"),
        ('{"text": "a"}\n\n{"body": "b"}\n', "text_field", "line 3 .* its keys: body"),
        ('{"text": 5}\n', "text_field", "a number, not a string"),
        ('{"text": "\\ud800"}\n', "dataset", "line 1 .* surrogate"),
        ("[" * 100_000, "dataset", "line 1 .* nested too deeply"),
        ("", "dataset", "is empty"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, content: str | bytes, field: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        document_file(tmp_path, content).check()
    assert caught.value.field == field
    assert caught.value.suggestion


def test_a_text_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 3 .* not UTF-8"):
        document_file(tmp_path, b"fine\n\n\xff\xfe\n", "data.txt").check()


@pytest.mark.parametrize(
    ("name", "said"), [("data.csv", "is none of"), ("gone.jsonl", "does not exist"), ("dir.txt", "holds none of")]
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "data.csv").touch()
    (tmp_path / "dir.txt").mkdir()
    with pytest.raises(UserError, match=said) as caught:
        open_dataset(str(tmp_path / name), "text")
    assert caught.value.field == "dataset"
