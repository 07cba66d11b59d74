"""Writing checkpoints beside training: training waits for a copy of its state, and a thread writes the copy.

Copying 100 million parameters with Adam's moments takes a tenth of a second, writing them seconds.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from worker_image.sae.checkpoint import (
    CheckpointState,
    SaeState,
    SavedCheckpoint,
    clear_leftovers,
    delete_checkpoint,
    save_checkpoint,
)


@dataclass(frozen=True)
class Saving:
    """A checkpoint that is being written. ``tag`` is whatever who asked for it wants back."""

    tag: object
    future: "Future[SavedCheckpoint]"


class CheckpointWriter:
    """Writes one checkpoint at a time on a thread of its own, in the order they were asked for."""

    def __init__(self, folder: Path, spare_bytes: Callable[[], int | None] = lambda: None) -> None:
        """``spare_bytes``: how much more memory may be taken; None where that cannot be told."""
        self._folder = folder
        self._spare_bytes = spare_bytes
        self._copies = _Copies()
        self._saving: Saving | None = None
        self._housework: list[Future[None]] = []
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        clear_leftovers(folder)

    def reserve(self, state: CheckpointState) -> "Future[None]":
        """Make room for copies of such a state, beside training: memory is slow when it is touched first."""
        reserved = self._thread.submit(self._copies.reserve if self._fits(state) else _nothing, state)
        self._housework.append(reserved)
        return reserved

    def save(self, state: CheckpointState, tag: object = None) -> None:
        """Copy the state and begin to write it. One that is still being written is waited for: take it by ``poll``
        first.

        Without memory for a copy it is written before this returns.

        Raises:
            RuntimeError: the one before was not taken by ``poll`` or ``wait``.
        """
        if self._saving is not None:
            raise RuntimeError("the checkpoint before this one was not taken over")
        self._finish_housework()
        if self._fits(state):
            copied, ready = self._copies.take(state)
            self._saving = Saving(tag, self._thread.submit(self._write, copied, ready))
        else:
            self.save_and_wait(state, tag)

    def save_and_wait(self, state: CheckpointState, tag: object = None) -> None:
        """Write the state as it is, without a copy: for when training does not go on before it is written."""
        if self._saving is not None:
            raise RuntimeError("the checkpoint before this one was not taken over")
        self._finish_housework()
        written: Future[SavedCheckpoint] = self._thread.submit(self._write, _on_cpu(state), None)
        self._saving = Saving(tag, written)
        written.exception()

    def poll(self) -> tuple[object, SavedCheckpoint] | None:
        """The checkpoint that is on disk since the last call, with its tag; None while there is none.

        Raises:
            OSError: it could not be written.
        """
        if self._saving is None or not self._saving.future.done():
            return None
        return self.wait()

    def wait(self) -> tuple[object, SavedCheckpoint] | None:
        """Like ``poll``, but waits until what is being written is on disk.

        Raises:
            OSError: it could not be written.
        """
        if self._saving is None:
            return None
        saving, self._saving = self._saving, None
        return saving.tag, saving.future.result()

    def delete(self, path: Path) -> None:
        """Delete a checkpoint, beside training. An error shows at the next ``save`` or at ``close``."""
        self._housework.append(self._thread.submit(delete_checkpoint, path))

    def close(self) -> None:
        """Wait for everything, and let the thread and its memory go.

        Raises:
            OSError: something could not be written or deleted.
        """
        self._thread.shutdown()
        self._copies = _Copies()
        self._finish_housework()

    def _finish_housework(self) -> None:
        housework, self._housework = self._housework, []
        for done in housework:
            done.result()

    def _fits(self, state: CheckpointState) -> bool:
        missing = self._copies.missing_bytes(state)
        spare = self._spare_bytes() if missing else None
        return spare is None or missing <= spare

    def _write(self, state: CheckpointState, ready: "torch.cuda.Event | None") -> SavedCheckpoint:
        if ready is not None:
            ready.synchronize()
        return save_checkpoint(self._folder, state)


class _Copies:
    """Host memory for one state, kept from save to save."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, str, str], Tensor] = {}

    def missing_bytes(self, state: CheckpointState) -> int:
        """Memory that copying ``state`` would newly take."""
        return sum(
            tensor.numel() * tensor.element_size() for key, tensor in _tensors(state) if not self._holds(key, tensor)
        )

    def reserve(self, state: CheckpointState) -> None:
        for key, tensor in _tensors(state):
            self._buffer(key, tensor)

    def take(self, state: CheckpointState) -> tuple[CheckpointState, "torch.cuda.Event | None"]:
        """A copy, and what to wait for before it is read: the GPU copies while the program goes on."""
        on_gpu = False
        for key, tensor in _tensors(state):
            on_gpu |= tensor.is_cuda
            self._buffer(key, tensor).copy_(tensor.detach(), non_blocking=True)
        ready = None
        if on_gpu:
            ready = torch.cuda.Event()
            ready.record()
        saes = tuple(
            SaeState(
                {name: self._buffers[index, "weights", name] for name in sae.weights},
                {name: self._buffers[index, "training", name] for name in sae.training},
                sae.values,
            )
            for index, sae in enumerate(state.saes)
        )
        return replace(state, saes=saes), ready

    def _holds(self, key: tuple[int, str, str], tensor: Tensor) -> bool:
        buffer = self._buffers.get(key)
        return buffer is not None and buffer.shape == tensor.shape and buffer.dtype == tensor.dtype

    def _buffer(self, key: tuple[int, str, str], tensor: Tensor) -> Tensor:
        if not self._holds(key, tensor):
            # Zeroed, so that its pages exist before training waits for a copy into them.
            self._buffers[key] = torch.zeros(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return self._buffers[key]


def _nothing(_: CheckpointState) -> None:
    """There is no memory for copies."""


def _tensors(state: CheckpointState) -> list[tuple[tuple[int, str, str], Tensor]]:
    return [
        ((index, part, name), tensor)
        for index, sae in enumerate(state.saes)
        for part, tensors in (("weights", sae.weights), ("training", sae.training))
        for name, tensor in tensors.items()
    ]


def _on_cpu(state: CheckpointState) -> CheckpointState:
    saes = tuple(
        SaeState(
            {name: tensor.detach().cpu() for name, tensor in sae.weights.items()},
            {name: tensor.detach().cpu() for name, tensor in sae.training.items()},
            sae.values,
        )
        for sae in state.saes
    )
    return replace(state, saes=saes)
