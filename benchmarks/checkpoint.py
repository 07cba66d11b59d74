"""How long a checkpoint takes, and for how much of it training waits.

Parameters with Adam's two moments, in float32. In turns: the checkpoint writer, with training waiting only for the
copy; and what it replaces: the safetensors library's own writer, then reading everything back to hash it. Beside them
what the disk takes for as many bytes. What is read back must be what was there when the checkpoint was asked for.
"""

import argparse
import hashlib
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.table import show
from worker_image.sae.checkpoint import CheckpointState, SaeState, delete_checkpoint, load_checkpoint
from worker_image.sae.checkpoint_writer import CheckpointWriter

D_IN = 768
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary directory when left out")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    state = _state(given.parameters, torch.device(given.device))
    size = sum(
        t.numel() * t.element_size() for part in (state.saes[0].weights, state.saes[0].training) for t in part.values()
    )
    with tempfile.TemporaryDirectory(prefix="saeforge-", dir=given.folder) as folder:
        writer = CheckpointWriter(Path(folder))
        writer.reserve(state).result()
        rounds = [_round(writer, Path(folder), state, size) for _ in range(ROUNDS)]
        writer.close()
    names = list(rounds[0])
    rows = [(name, median(one[name] for one in rounds), max(one[name] for one in rounds)) for name in names]
    show(
        f"A checkpoint of {given.parameters / 1e6:.0f}M parameters with moments: {size / 1e9:.1f} GB, {given.device}",
        ("", "median s", "most s"),
        rows,
    )


def _state(parameters: int, device: torch.device) -> CheckpointState:
    d_sae = parameters // (2 * D_IN)
    weights = {name: torch.randn(d_sae, D_IN, device=device) for name in ("W_enc_FD", "W_dec_FE")}
    moments = {
        f"{name}.{moment}": torch.randn(d_sae, D_IN, device=device)
        for name in weights
        for moment in ("exp_avg", "exp_avg_sq")
    }
    return CheckpointState(1, (SaeState(weights, moments),))


def _round(writer: CheckpointWriter, folder: Path, state: CheckpointState, size: int) -> dict[str, float]:
    weights = state.saes[0].weights["W_enc_FD"]
    wanted = weights[:100].cpu().clone()
    began = time.perf_counter()
    writer.save(state)
    blocked_s = time.perf_counter() - began
    weights[:100] += 1
    done = writer.wait()
    saved_s = time.perf_counter() - began
    assert done is not None
    began = time.perf_counter()
    loaded = load_checkpoint(done[1].path)
    loaded_s = time.perf_counter() - began
    assert torch.equal(loaded.saes[0].weights["W_enc_FD"][:100], wanted)
    del loaded
    delete_checkpoint(done[1].path)
    return {
        "training waits": blocked_s,
        "on disk, hashed and synced": saved_s,
        "read back and verified": loaded_s,
        "the library's writer, then hashing what it wrote": _by_library(folder, state),
        "the disk: as many bytes, written and synced": _disk(folder, size),
    }


def _by_library(folder: Path, state: CheckpointState) -> float:
    began = time.perf_counter()
    tensors: dict[str, Tensor] = {**state.saes[0].weights, **state.saes[0].training}
    path = folder / "library"
    save_file({name: tensor.cpu() for name, tensor in tensors.items()}, path)
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
        os.fsync(file.fileno())
    took = time.perf_counter() - began
    path.unlink()
    return took


def _disk(folder: Path, size: int) -> float:
    piece = os.urandom(2**24)
    path = folder / "plain"
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(size // len(piece)):
            file.write(piece)
        os.fsync(file.fileno())
    took = time.perf_counter() - began
    path.unlink()
    return took


if __name__ == "__main__":
    main()
