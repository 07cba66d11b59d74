"""Tensor files: what safetensors reads back is what was written, bit for bit, and the digest is the file's."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from worker_image.sae.tensor_file import write_tensors

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_of_every_type_is_read_back_by_the_library_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    wanted = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]).to(dtype)
    write_tensors(tmp_path / "file", {"a": wanted})
    found = load_file(tmp_path / "file")["a"]
    assert found.dtype == dtype
    assert torch.equal(found.view(torch.uint8), wanted.view(torch.uint8))


def test_not_a_number_keeps_its_bits(tmp_path: Path) -> None:
    bits = torch.tensor([0x7FC00001, 0x7F800000], dtype=torch.int32)
    write_tensors(tmp_path / "file", {"a": bits.view(torch.float32)})
    assert torch.equal(load_file(tmp_path / "file")["a"].view(torch.int32), bits)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3, 4)], ids=str)
def test_scalars_and_empty_tensors_keep_their_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    wanted = torch.ones(shape)
    write_tensors(tmp_path / "file", {"before": torch.ones(1, dtype=torch.uint8), "a": wanted})
    assert torch.equal(load_file(tmp_path / "file")["a"], wanted)


def test_a_view_is_written_as_it_looks_and_not_as_it_lies(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    write_tensors(tmp_path / "file", {"transposed": base.T, "column": base[:, 1]})
    found = load_file(tmp_path / "file")
    assert torch.equal(found["transposed"], base.T)
    assert torch.equal(found["column"], base[:, 1])


def test_a_tensor_larger_than_a_piece_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker_image.sae.tensor_file._PIECE", 7)
    wanted = torch.arange(100)
    write_tensors(tmp_path / "file", {"a": wanted, "b": wanted.to(torch.int8)})
    found = load_file(tmp_path / "file")
    assert torch.equal(found["a"], wanted)
    assert torch.equal(found["b"], wanted.to(torch.int8))


def test_size_and_digest_are_those_of_the_file(tmp_path: Path) -> None:
    written = write_tensors(tmp_path / "file", {"a": torch.arange(5), "b": torch.ones(3)})
    content = (tmp_path / "file").read_bytes()
    assert written.size_bytes == len(content)
    assert written.sha256 == hashlib.sha256(content).hexdigest()


def test_a_file_of_no_tensors_is_one(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {})
    with safe_open(tmp_path / "file", "pt") as file:
        assert list(file.keys()) == []


def test_what_the_format_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="spectrum"):
        write_tensors(tmp_path / "file", {"spectrum": torch.zeros(1, dtype=torch.complex64)})


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {"a": torch.ones(1)})
    with pytest.raises(FileExistsError):
        write_tensors(tmp_path / "file", {"a": torch.zeros(1)})
