import gzip
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.packed import PIECE_BYTES, pack, packed_path, read
from orchestrator.tail import read_last_lines, read_piece

SIZES = [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES + 17]


def content(size: int) -> bytes:
    """Half of it does not compress, and half of it does."""
    noise = random.Random(size).randbytes(size // 2)
    return noise + (b"line\n" * size)[: size - len(noise)]


def packed(folder: Path, data: bytes) -> Path:
    path = folder / "log"
    path.write_bytes(data)
    pack(path)
    return path


@pytest.mark.parametrize("size", SIZES)
def test_what_is_packed_reads_back_the_same_from_every_offset(tmp_path: Path, size: int) -> None:
    data = content(size)
    path = packed(tmp_path, data)
    assert not path.exists()
    for offset in {0, 1, size // 2, PIECE_BYTES - 1, PIECE_BYTES, max(size - 1, 0), size, size + 5}:
        piece = read_piece(path, offset, 3 * PIECE_BYTES)
        assert piece.data == data[offset:]
        assert (piece.offset, piece.size_bytes) == (min(offset, len(data)), len(data))


@settings(max_examples=50, deadline=None)
@given(offset=st.integers(0, 3 * PIECE_BYTES), limit=st.integers(1, 2 * PIECE_BYTES))
def test_any_part_is_the_part_of_the_original(
    offset: int, limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = content(2 * PIECE_BYTES + 4711)
    path = packed(tmp_path_factory.mktemp("one"), data)
    assert read_piece(path, offset, limit).data == data[offset : offset + limit]


def test_other_programs_read_it_whole(tmp_path: Path) -> None:
    data = content(2 * PIECE_BYTES + 17)
    path = packed(tmp_path, data)
    assert gzip.decompress(packed_path(path).read_bytes()) == data


def test_text_takes_less_room_and_its_end_is_found(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"step %d loss 0.5\n" % number for number in range(200_000)))
    assert pack(path) > 2 << 20
    assert read_last_lines(path, 1, 1000).data == b"step 199999 loss 0.5\n"


def test_packing_again_changes_nothing(tmp_path: Path) -> None:
    path = packed(tmp_path, b"hello")
    assert pack(path) == 0
    assert read(path, 0, 10) == (b"hello", 0, 5)


def test_where_packing_was_cut_short_the_original_is_what_is_read(tmp_path: Path) -> None:
    path = packed(tmp_path, b"first")
    path.write_bytes(b"the original")
    assert read_piece(path, 0, 100).data == b"the original"
    pack(path)
    assert read_piece(path, 0, 100).data == b"the original"


def test_a_link_in_its_place_is_neither_packed_nor_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = tmp_path / "log"
    path.symlink_to(secret)
    assert pack(path) == 0
    path.unlink()
    packed(tmp_path, b"hello")
    packed_path(path).unlink()
    packed_path(path).symlink_to(secret)
    assert read(path, 0, 10) is None
    assert secret.read_text() == "secret"


@pytest.mark.parametrize(
    "index", [b"", b"{}", b'{"size_bytes": 9, "starts": []}', b'{"size_bytes": 9, "starts": [0, 99999999999]}', b"\xff"]
)
def test_an_index_that_a_job_made_up_gives_nothing(tmp_path: Path, index: bytes) -> None:
    path = packed(tmp_path, b"hello")
    (tmp_path / "log.gz.index").write_bytes(index)
    assert not (read(path, 0, 10) or (b"",))[0]


def test_a_member_that_unpacks_to_more_than_it_may_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log"
    bomb = gzip.compress(bytes(100 << 20))
    packed_path(path).write_bytes(bomb)
    (tmp_path / "log.gz.index").write_text(f'{{"size_bytes": 1000000000, "starts": [0, {len(bomb)}]}}')
    found = read(path, 0, 1 << 30)
    assert found is not None
    assert len(found[0]) == PIECE_BYTES
