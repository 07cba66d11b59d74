"""Digests are of contents, and are worked out again only when the file may have changed."""

import hashlib
import os
from pathlib import Path

import pytest

from worker_image.lm.digest import DigestBook

OLD_NS = 10**18


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("content")
    return path


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DigestBook:
    """One that takes every file as settled, however new it is."""
    monkeypatch.setattr("worker_image.lm.digest._SETTLED_S", -1e9)
    return DigestBook(tmp_path / "digests")


def test_it_is_the_digest_of_the_contents(book: DigestBook, file: Path) -> None:
    assert book.of(file) == hashlib.sha256(b"content").hexdigest()


def test_a_file_that_did_not_change_is_not_read_again(book: DigestBook, file: Path, tmp_path: Path) -> None:
    book.of(file)
    [page] = (tmp_path / "digests").iterdir()
    page.write_text('{"sha256": "remembered"}')
    assert book.of(file) == "remembered"


def test_a_change_that_leaves_size_and_time_of_modification_is_noticed(book: DigestBook, file: Path) -> None:
    os.utime(file, ns=(OLD_NS, OLD_NS))
    before = book.of(file)
    file.write_text("CONTENT")
    os.utime(file, ns=(OLD_NS, OLD_NS))
    assert book.of(file) != before


def test_a_file_changed_just_now_is_not_remembered(file: Path, tmp_path: Path) -> None:
    DigestBook(tmp_path / "digests").of(file)
    assert not (tmp_path / "digests").exists()


def test_several_files_are_told_by_contents_and_order(book: DigestBook, tmp_path: Path) -> None:
    one, two, copy = (tmp_path / f"{name}.txt" for name in ("one", "two", "copy"))
    for path, content in ((one, "1"), (two, "2"), (copy, "1")):
        path.write_text(content)
    assert book.of_all([one, two], named=False) == book.of_all([copy, two], named=False)
    assert book.of_all([one, two], named=True) != book.of_all([copy, two], named=True)
    assert book.of_all([one, two], named=False) != book.of_all([two, one], named=False)
