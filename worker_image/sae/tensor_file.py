"""Safetensors files written tensor by tensor, and hashed on the way out.

The library's own writer copies every tensor into bytes of its own first, and what it wrote has to be read back to be
hashed. The format is a length, a JSON header and the tensors' bytes one after the other
(https://huggingface.co/docs/safetensors/index#format), so this writes it without either.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8
"""Readers map the file into memory, so the first tensor begins at a multiple of the widest element's size."""
_PIECE = 16 * 2**20
"""Bytes hashed and written at once: what was just hashed is still in cache when it is written."""


@dataclass(frozen=True)
class Written:
    """What a file holds."""

    size_bytes: int
    sha256: str
    """Hex digest of its contents."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Written:
    """Write tensors that are in host memory to a new file and have the disk take it in.

    Raises:
        OSError: it exists already, or could not be written.
        ValueError: a tensor is of a type that the format does not know.
    """
    # Widest elements first, so that every tensor is aligned to its own element.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {}
    offset = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise ValueError(f"{name} is of {tensor.dtype}, which no safetensors file can hold")
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return _write(path, [len(text).to_bytes(8, "little") + text, *(_bytes(tensors[name]) for name in order)])


def write_text(path: Path, text: str) -> Written:
    """Write a text to a new file and have the disk take it in."""
    return _write(path, [text.encode()])


def _write(path: Path, parts: list[bytes | memoryview]) -> Written:
    digest = hashlib.sha256()
    size = 0
    # Unbuffered: a buffer in between would copy everything once more.
    with path.open("xb", buffering=0) as file:
        for part in parts:
            whole = memoryview(part)
            for start in range(0, len(whole), _PIECE):
                piece = whole[start : start + _PIECE]
                digest.update(piece)
                size += len(piece)
                while piece:
                    piece = piece[file.write(piece) :]
        os.fsync(file.fileno())
    return Written(size, digest.hexdigest())


def _bytes(tensor: Tensor) -> memoryview:
    """The tensor's own memory where it lies in one piece, else a copy's."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
