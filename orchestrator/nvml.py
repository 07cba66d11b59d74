"""The NVIDIA driver's view of the GPUs, through NVML."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

import pynvml

from orchestrator.gpus import Gpu, GpuProcess, GpuReport

_T = TypeVar("_T")

THROTTLING: Final[tuple[tuple[int, str], ...]] = (
    (pynvml.nvmlClocksEventReasonSwPowerCap, "power limit"),
    (pynvml.nvmlClocksEventReasonSwThermalSlowdown, "temperature"),
    (pynvml.nvmlClocksThrottleReasonHwThermalSlowdown, "temperature (hardware)"),
    (pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown, "power brake"),
    (pynvml.nvmlClocksThrottleReasonHwSlowdown, "hardware slowdown"),
    (pynvml.nvmlClocksEventReasonSyncBoost, "synchronised with other GPUs"),
    (pynvml.nvmlClocksEventReasonApplicationsClocksSetting, "clocks set by hand"),
    (pynvml.nvmlClocksEventReasonDisplayClockSetting, "display clocks"),
)
"""What the driver's bits mean; being idle is among them too and holds nothing back."""

XIDS: Final[dict[int, str]] = {
    48: "an uncorrectable memory error",
    62: "its controller halted",
    63: "a row of its memory is to be replaced",
    64: "a row of its memory could not be replaced",
    74: "an NVLink error",
    79: "it fell off the bus",
    92: "many corrected memory errors",
    94: "a contained memory error",
    95: "an uncontained memory error",
    119: "its system processor does not answer",
    120: "its system processor failed",
}
"""Errors of the hardware, by the driver's number; most others are made by a program and end with it."""

_GONE: Final = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
"""Errors about one GPU that say that nothing can run on it; the others may still be well."""
_SILENT: Final = (
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
)
"""Errors that say that the driver itself has gone."""


@dataclass(slots=True)
class GpuProbe:
    """Looks at the GPUs. Blocking: call it off the event loop; from any thread."""

    _ready: bool = False
    _driver: str | None = None
    _last: tuple[Gpu, ...] = ()
    _events: Any = None
    _xids: dict[str, int] = field(default_factory=dict)
    _busy: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> GpuReport:
        with self._busy:
            try:
                if not self._ready:
                    self._connect()
                self._last, unread = self._look()
                return GpuReport(self._last, driver=self._driver, unread=unread)
            except pynvml.NVMLError as error:
                self._ready = False
                return GpuReport(self._last, error=f"NVML: {error}", driver=self._driver)

    def _connect(self) -> None:
        pynvml.nvmlInit()
        self._ready, self._events = True, None
        version = _if_given(pynvml.nvmlSystemGetDriverVersion)
        self._driver = None if version is None else _text(version)
        with suppress(pynvml.NVMLError):
            events = pynvml.nvmlEventSetCreate()
            for index in range(pynvml.nvmlDeviceGetCount()):
                with suppress(pynvml.NVMLError):
                    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                    pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
            self._events = events

    def _look(self) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
        self._note_xids()
        seen: list[Gpu] = []
        unread: list[str] = []
        whole = set[str]()
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                whole.add(_text(pynvml.nvmlDeviceGetUUID(handle)))
                seen += list(self._read(handle, index))
            except pynvml.NVMLError as error:
                if error.value in _SILENT:
                    raise
                before = [gpu for gpu in self._last if gpu.index == index]
                seen += [_lost(gpu, str(error)) for gpu in before]
                if not before:
                    unread.append(f"GPU {index} cannot be read: {error}")
        # A GPU off the bus may be left out of the count. Instances come and go by their owner's will.
        known = {gpu.uuid for gpu in seen} | whole
        seen += [
            _lost(gpu, "it is no longer listed") for gpu in self._last if gpu.uuid not in known and gpu.instance is None
        ]
        return tuple(sorted(seen, key=lambda gpu: (gpu.index, gpu.instance or 0))), tuple(unread)

    def _read(self, handle: Any, index: int) -> Iterator[Gpu]:
        """The GPU, or its instances where it is partitioned: then only those can be given to anybody."""
        mode = _if_given(lambda: pynvml.nvmlDeviceGetMigMode(handle))
        if mode is None or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
            yield self._read_one(handle, index, None)
            return
        whole = self._read_one(handle, index, None)
        for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            instance = _if_given(partial(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number))
            if instance is not None:
                part = self._read_one(instance, index, number)
                # Heat, power and clocks are those of the chip.
                yield replace(
                    part,
                    temperature_c=whole.temperature_c,
                    throttling=whole.throttling,
                    uncorrected_errors=whole.uncorrected_errors,
                    last_xid=whole.last_xid,
                    problems=whole.problems,
                )

    def _read_one(self, handle: Any, index: int, instance: int | None) -> Gpu:
        uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
        memory = _if_given(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
        errors = _if_given(
            lambda: pynvml.nvmlDeviceGetTotalEccErrors(
                handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
            )
        )
        xid = self._xids.get(uuid)
        return Gpu(
            uuid=uuid,
            index=index,
            name=_text(pynvml.nvmlDeviceGetName(handle)),
            # GPUs that share the machine's memory have none of their own to tell of.
            memory_total_mb=memory.total >> 20 if memory else 0,
            memory_used_mb=memory.used >> 20 if memory else 0,
            utilization=_if_given(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            temperature_c=_if_given(
                lambda: float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
            ),
            power_w=_if_given(lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            processes=tuple(_processes(handle)),
            power_limit_w=_if_given(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
            throttling=throttling(
                _if_given(lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
                or _if_given(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
                or 0
            ),
            uncorrected_errors=errors,
            last_xid=xid,
            problems=tuple(_problems(handle, errors, xid)),
            instance=instance,
        )

    def _note_xids(self) -> None:
        while self._events is not None:
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, 0)
                self._xids[_text(pynvml.nvmlDeviceGetUUID(event.device))] = int(event.eventData)
            except pynvml.NVMLError:
                return


def throttling(reasons: int) -> tuple[str, ...]:
    """The driver's bits in words."""
    return tuple(words for bit, words in THROTTLING if reasons & bit)


def _problems(handle: Any, uncorrected_errors: int | None, xid: int | None) -> Iterator[str]:
    if uncorrected_errors:
        yield f"{uncorrected_errors} uncorrectable memory errors since the driver was loaded"
    if xid in XIDS:
        yield f"the driver reported Xid {xid}: {XIDS[xid]}"
    remapped = _if_given(lambda: pynvml.nvmlDeviceGetRemappedRows(handle))
    if remapped is not None:
        _, _, pending, failed = remapped
        if failed:
            yield "a row of its memory could not be replaced: have it exchanged"
        elif pending:
            yield "a row of its memory is to be replaced: reset it when nothing runs on it"
    elif _if_given(lambda: pynvml.nvmlDeviceGetRetiredPagesPendingStatus(handle)):
        yield "pages of its memory are to be retired: reset it when nothing runs on it"


def _processes(handle: Any) -> Iterator[GpuProcess]:
    compute = _if_given(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) or ()
    # Those that share it through the driver's own server are listed apart, or on older drivers twice.
    shared = _if_given(lambda: pynvml.nvmlDeviceGetMPSComputeRunningProcesses(handle)) or ()
    for found in {found.pid: found for found in (*shared, *compute)}.values():
        used = found.usedGpuMemory
        yield GpuProcess(found.pid, _program(found.pid), None if used is None else used >> 20)


def _program(pid: int) -> str:
    """The name of a process's program; empty when it is out of sight."""
    path = _if_given(lambda: pynvml.nvmlSystemGetProcessName(pid))
    if path:
        return PurePosixPath(_text(path)).name
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _lost(gpu: Gpu, why: str) -> Gpu:
    return replace(gpu, lost=True, utilization=None, processes=(), throttling=(), problems=(f"it is lost: {why}",))


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _if_given(read: Callable[[], _T]) -> _T | None:
    """Not every GPU reports every figure, and not to everybody (MIG instances, laptops, old drivers, containers)."""
    try:
        return read()
    except pynvml.NVMLError as error:
        if error.value in (*_GONE, *_SILENT):
            raise
        return None
