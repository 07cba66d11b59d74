"""Files that are no longer written to, compressed so that any part can still be read by its offset.

``log`` becomes ``log.gz``, which ``zcat`` reads as a whole: one gzip member for each mebibyte. ``log.gz.index`` says
where each begins, so that reading from an offset unpacks one member and not all that came before.

A job owns its run directory, so what is found there is bounded and never followed elsewhere. Blocking: call it off the
event loop.
"""

import os
import stat
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PIECE_BYTES: Final = 1 << 20
_LEVEL: Final = 6
_GZIP: Final = 31
"""zlib's code for its largest window in a gzip wrapping."""
_MOST_PACKED_BYTES: Final = 2 * PIECE_BYTES
"""No honest member is larger: what does not compress grows by a few bytes."""
_MOST_INDEX_BYTES: Final = 4 << 20


class _Index(BaseModel):
    model_config = ConfigDict(frozen=True)

    size_bytes: int = Field(ge=0)
    """Of the file before it was packed."""
    starts: list[int]
    """Where each member begins in the packed file, and at last where that ends."""


def packed_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


def pack(path: Path) -> int:
    """Replace a file by its packed form; how many bytes that frees, or 0 where there is no plain file.

    At every moment one of the two is there, whole and on disk.
    """
    descriptor = _open(path)
    if descriptor is None:
        return 0
    target = packed_path(path)
    index = _index_path(target)
    with open(descriptor, "rb") as source:
        before = os.fstat(source.fileno()).st_blocks * 512
        found = _pack_into(source.fileno(), target)
    _write(index, found.model_dump_json().encode())
    for draft, final in ((_draft(index), index), (_draft(target), target)):
        draft.replace(final)
    _sync(path.parent)
    path.unlink()
    return before - sum(file.stat().st_blocks * 512 for file in (target, index))


def read(path: Path, offset: int, limit: int) -> tuple[bytes, int, int] | None:
    """At most ``limit`` bytes from ``offset`` of the file that was packed, where they begin, and the file's size.

    None where there is no packed file, or none that makes sense. The answer may be shorter than ``limit`` before the
    file ends, but not empty.
    """
    target = packed_path(path)
    index = _read_index(_index_path(target))
    descriptor = _open(target) if index else None
    if index is None or descriptor is None:
        return None
    try:
        start = min(offset, index.size_bytes)
        data = b""
        while len(data) < limit and start + len(data) < index.size_bytes:
            number, skipped = divmod(start + len(data), PIECE_BYTES)
            member = _member(descriptor, index, number)[skipped:]
            if not member:
                break
            data += member
        return data[:limit], start, index.size_bytes
    finally:
        os.close(descriptor)


def _member(descriptor: int, index: _Index, number: int) -> bytes:
    """One unpacked member; empty if it is not as the index says."""
    if number + 1 >= len(index.starts):
        return b""
    first, after = index.starts[number : number + 2]
    if not 0 <= first < after <= first + _MOST_PACKED_BYTES:
        return b""
    with suppress(zlib.error):
        return zlib.decompressobj(_GZIP).decompress(os.pread(descriptor, after - first, first), PIECE_BYTES)
    return b""


def _pack_into(source: int, target: Path) -> _Index:
    starts, size = [0], 0
    with open(_create(_draft(target)), "wb") as file:
        while piece := os.pread(source, PIECE_BYTES, size):
            # A read may be cut short; every member but the last is to hold the same number of bytes.
            while len(piece) < PIECE_BYTES and (more := os.pread(source, PIECE_BYTES - len(piece), size + len(piece))):
                piece += more
            packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
            file.write(packer.compress(piece) + packer.flush())
            size += len(piece)
            starts.append(file.tell())
        file.flush()
        os.fsync(file.fileno())
    return _Index(size_bytes=size, starts=starts)


def _read_index(path: Path) -> _Index | None:
    descriptor = _open(path)
    if descriptor is None:
        return None
    with open(descriptor, "rb") as file, suppress(ValidationError):
        return _Index.model_validate_json(file.read(_MOST_INDEX_BYTES))
    return None


def _index_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.index")


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _open(path: Path) -> int | None:
    """A descriptor of a plain file, and of nothing that stands in its place."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _create(path: Path) -> int:
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def _write(path: Path, content: bytes) -> None:
    with open(_create(_draft(path)), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
