"""Whether a training fits, seen before it takes what it needs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from worker_image.contract.budget import (
    BUFFER,
    COPY,
    CUDA_CONTEXT,
    LANGUAGE_MODEL,
    MODEL_ACTIVATIONS,
    PROGRAM,
    Budget,
    Component,
    Pool,
    activation_bytes,
    advice,
    listed,
    readable,
    training_budget,
)
from worker_image.contract.jobs import TrainSaeParams
from worker_image.contract.model_shape import ModelShape
from worker_image.errors import OutOfGpuMemory, UserError
from worker_image.lm.harvest import Columns
from worker_image.memory import MIB, available_bytes

_TAKEN = {PROGRAM, CUDA_CONTEXT, LANGUAGE_MODEL, MODEL_ACTIVATIONS, COPY}
"""What is taken already, is not needed where activations are cached, or can be done without."""


@dataclass(frozen=True)
class Need:
    """What a training takes on this machine, with the widths that its hookpoints turned out to have."""

    params: TrainSaeParams
    shape: ModelShape
    columns: Columns
    device: torch.device
    buffered_tokens: int
    """Activations held in memory at once; 0 where they come from the cache."""

    @classmethod
    def of(
        cls,
        params: TrainSaeParams,
        config: Mapping[str, object],
        columns: Columns,
        device: torch.device,
        buffered_tokens: int,
    ) -> "Need":
        """``config``: the language model's."""
        return cls(params, ModelShape.of(config), columns, device, buffered_tokens)

    def check(self, gpu_memory_mb: int | None) -> None:
        """Refuse now what the kernel or the GPU would end later.

        Raises:
            UserError: too little is left; names the parameter that asks for most of it, and what would do.
        """
        if (left := available_bytes()) is not None:
            self._check("host", left)
        if self.device.type == "cuda":
            self._check("gpu", _left_on_gpu(gpu_memory_mb))

    def with_buffers(self, buffered_tokens: int) -> "Need":
        """The same with so many activations held in memory, beside what it has by now.

        Raises:
            UserError: there is no room for them.
        """
        need = replace(self, buffered_tokens=buffered_tokens)
        size_bytes = sum(part.size_bytes for part in need._components("host") if part.name == BUFFER)
        if (left := available_bytes()) is not None and size_bytes > left:
            raise UserError(
                "buffer_tokens",
                f"{readable(size_bytes)} of memory are needed to buffer activations and {readable(left)} are left",
                "lower buffer_tokens, raise resources.memory_mb, or have room made in the activation cache",
            )
        return need

    def table(self, pool: Pool) -> str:
        """All that it takes, by component, for people."""
        return listed(self._components(pool))

    def lacking(self, field: str, what: str, suggestion: str) -> OutOfGpuMemory:
        """What is told when the GPU has no memory for ``what`` after all, beside what was reckoned with."""
        return OutOfGpuMemory(
            field, f"{what} does not fit into GPU memory; reckoned with: {self.table('gpu')}", suggestion
        )

    def remaining(self, pool: Pool) -> list[Component]:
        """What it takes beyond what it has already."""
        return [part for part in self._components(pool) if part.name not in _TAKEN]

    def _budget(self, params: TrainSaeParams) -> Budget:
        place = self.columns[params.hookpoint]
        return training_budget(
            params,
            self.shape,
            on_gpu=self.device.type == "cuda",
            cached=not self.buffered_tokens,
            d_in=place.stop - place.start,
        )

    def _components(self, pool: Pool) -> list[Component]:
        width = sum(place.stop - place.start for place in self.columns.values())
        # A small dataset does not fill the buffer.
        exact = self.buffered_tokens * width * activation_bytes(self.params)
        return [
            replace(part, size_bytes=exact) if part.name == BUFFER else part
            for part in self._budget(self.params).components
            if part.pool == pool
        ]

    def _check(self, pool: Pool, left: int) -> None:
        parts = self.remaining(pool)
        needed = sum(part.size_bytes for part in parts)
        if needed <= left:
            return
        limit = self._budget(self.params).total(pool) - (needed - left)
        changes = " or ".join(str(item) for item in advice(self.params, pool, limit, self._budget))
        where, error, grant = _WORDS[pool]
        raise error(
            max(parts, key=lambda part: part.size_bytes).field,
            f"{readable(needed)} of {where} are needed and {readable(left)} are left: {listed(parts)}",
            f"lower {changes or 'several parameters'}, or raise resources.{grant}",
        )


_WORDS: dict[Pool, tuple[str, type[UserError], str]] = {
    "host": ("memory", UserError, "memory_mb"),
    "gpu": ("GPU memory", OutOfGpuMemory, "gpu_memory_mb"),
}


def _left_on_gpu(gpu_memory_mb: int | None) -> int:
    """What the process may still take, of the GPU or of its share of it."""
    allocated = torch.cuda.memory_allocated()
    # What torch keeps in reserve is as good as free.
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - allocated
    return free if gpu_memory_mb is None else min(free, gpu_memory_mb * MIB - allocated)
