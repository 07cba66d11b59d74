import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.tail import read_last_lines, read_lines, read_piece, whole_characters


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_a_missing_file_is_empty(file: Path) -> None:
    assert read_piece(file, 10, 100).data == b""
    assert read_last_lines(file, 3, 100).data == b""


@pytest.mark.parametrize("put", [lambda path, key: path.symlink_to(key), lambda path, key: os.mkfifo(path)])
def test_what_a_job_put_in_place_of_its_log_is_not_read(
    file: Path, tmp_path: Path, put: Callable[[Path, Path], None]
) -> None:
    key = tmp_path / "api-key"
    key.write_text("secret\n")
    put(file, key)
    assert read_piece(file, 0, 100).data == b""
    assert read_last_lines(file, 3, 100).data == b""
    assert read_lines(file, 0, 100) == ([], 0)


def test_a_line_still_being_written_waits(file: Path) -> None:
    file.write_bytes(b"one\ntwo\nthr")
    lines, offset = read_lines(file, 0, 1000)
    assert lines == [b"one", b"two"]
    assert read_lines(file, offset, 1000) == ([], offset)


def test_a_line_longer_than_the_limit_is_read_whole(file: Path) -> None:
    file.write_bytes(b"x" * 1000 + b"\nnext\n")
    lines, offset = read_lines(file, 0, 16)
    assert lines[0] == b"x" * 1000
    assert offset >= 1001


def test_a_carriage_return_ends_no_line(file: Path) -> None:
    file.write_bytes(b"10%\r20%\r\n")
    assert read_lines(file, 0, 1000)[0] == [b"10%\r20%\r"]


@given(data=st.binary(max_size=200).map(lambda raw: raw.replace(b"\r", b"\n")), limit=st.integers(1, 50))
def test_pieces_put_together_are_the_file(tmp_path_factory: pytest.TempPathFactory, data: bytes, limit: int) -> None:
    file = tmp_path_factory.mktemp("pieces") / "log"
    file.write_bytes(data)
    read, offset = b"", 0
    while (piece := read_piece(file, offset, limit)).data:
        read, offset = read + piece.data, piece.next_offset
    assert read == data


@given(
    lines=st.lists(st.binary(max_size=8).filter(lambda raw: b"\n" not in raw), max_size=10), wanted=st.integers(1, 12)
)
def test_the_last_lines_are_those_at_the_end(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], wanted: int
) -> None:
    file = tmp_path_factory.mktemp("last") / "log"
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    piece = read_last_lines(file, wanted, 10_000)
    assert piece.data == b"".join(line + b"\n" for line in lines[-wanted:])
    assert piece.next_offset == piece.size_bytes


@given(text=st.text(min_size=1, max_size=20), cut=st.integers(0, 80))
def test_no_character_is_cut_in_two(text: str, cut: int) -> None:
    data = text.encode()[:cut]
    whole = data[: whole_characters(data)]
    assert text.startswith(whole.decode())
    assert len(data) - len(whole) < 4


def test_bytes_that_are_no_text_are_whole() -> None:
    assert whole_characters(b"\xff\xff\xff") == 3
