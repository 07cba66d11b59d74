"""GPUs: what NVML sees, and which ones to give."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import pynvml

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML sees it now. Figures the driver does not give are empty."""

    uuid: str
    index: int
    name: str
    memory_total_mb: int
    memory_used_mb: int
    utilization: float | None = None
    """Share of time busy, 0 to 1."""
    temperature_c: float | None = None
    power_w: float | None = None
    processes: int = 0
    """Compute processes on it, whoever started them."""


@dataclass(frozen=True, slots=True)
class GpuReport:
    """The GPUs, or why they cannot be seen."""

    gpus: tuple[Gpu, ...] = ()
    """As last seen."""
    error: str | None = None
    """Set when there is no driver, which means no GPUs and is no failure, or when one that answered has stopped to."""


@dataclass(slots=True)
class GpuProbe:
    """Looks at the GPUs. Blocking: call it off the event loop."""

    _ready: bool = field(default=False)
    _last: tuple[Gpu, ...] = ()

    def __call__(self) -> GpuReport:
        try:
            if not self._ready:
                pynvml.nvmlInit()
                self._ready = True
            self._last = tuple(_read(index) for index in range(pynvml.nvmlDeviceGetCount()))
            return GpuReport(self._last)
        except pynvml.NVMLError as error:
            self._ready = False
            return GpuReport(self._last, error=f"NVML: {error}")


def assign(free: Sequence[Gpu], need: int) -> tuple[str, ...] | None:
    """UUIDs of ``need`` of the free GPUs, the emptiest first, or none when there are too few."""
    if need > len(free):
        return None
    emptiest = sorted(free, key=lambda gpu: (gpu.memory_used_mb, gpu.index))
    return tuple(gpu.uuid for gpu in sorted(emptiest[:need], key=lambda gpu: gpu.index))


def foreign(gpu: Gpu, leased: Collection[str]) -> int:
    """Processes on the GPU that the orchestrator did not put there: all of them when no attempt leases it."""
    return 0 if gpu.uuid in leased else gpu.processes


def _read(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        index=index,
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        memory_total_mb=memory.total >> 20,
        memory_used_mb=memory.used >> 20,
        utilization=_if_given(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
        temperature_c=_if_given(lambda: float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))),
        power_w=_if_given(lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000),
        processes=len(_if_given(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) or ()),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _if_given(read: Callable[[], _T]) -> _T | None:
    """Not every GPU reports every figure (MIG slices and laptops do not)."""
    try:
        return read()
    except pynvml.NVMLError_NotSupported:
        return None
