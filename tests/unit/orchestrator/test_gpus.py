from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gpus import Gpu, GpuProbe, GpuReport, assign, foreign


def gpu(index: int, used_mb: int = 0, processes: int = 0) -> Gpu:
    return Gpu(f"GPU-{index}", index, "H200", memory_total_mb=1000, memory_used_mb=used_mb, processes=processes)


class Driver:
    """NVML with one GPU that reports no temperature."""

    def __init__(self) -> None:
        self.alive = True

    def nvmlInit(self) -> None:
        if not self.alive:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def nvmlDeviceGetCount(self) -> int:
        if not self.alive:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return 1

    def nvmlDeviceGetTemperature(self, *_: Any) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    fake = Driver()
    answers = {
        "nvmlDeviceGetHandleByIndex": 0,
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=8 << 30, used=1 << 30),
        "nvmlDeviceGetUUID": b"GPU-a",
        "nvmlDeviceGetName": "H200",
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=50),
        "nvmlDeviceGetPowerUsage": 350_000,
        "nvmlDeviceGetComputeRunningProcesses": [object()],
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, lambda *_, answer=answer: answer)
    for name in ("nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetTemperature"):
        monkeypatch.setattr(pynvml, name, getattr(fake, name))
    return fake


def test_a_gpu_is_read_and_what_it_does_not_report_is_empty(driver: Driver) -> None:
    (seen,) = GpuProbe()().gpus
    assert seen == Gpu("GPU-a", 0, "H200", 8192, 1024, 0.5, None, 350.0, 1)


def test_without_a_driver_there_are_no_gpus_and_no_exception(driver: Driver) -> None:
    driver.alive = False
    report = GpuProbe()()
    assert report.gpus == ()
    assert report.error is not None


def test_a_driver_that_comes_back_is_seen_again(driver: Driver) -> None:
    probe = GpuProbe()
    probe()
    driver.alive = False
    assert probe().error is not None
    driver.alive = True
    assert probe() == GpuReport((Gpu("GPU-a", 0, "H200", 8192, 1024, 0.5, None, 350.0, 1),))


def test_the_emptiest_gpus_are_given_first() -> None:
    assert assign([gpu(0, used_mb=500), gpu(1), gpu(2, used_mb=100)], 2) == ("GPU-1", "GPU-2")


@given(st.lists(st.integers(0, 1000), max_size=8), st.integers(0, 10))
def test_as_many_as_asked_for_or_none(used: list[int], need: int) -> None:
    given_out = assign([gpu(index, mb) for index, mb in enumerate(used)], need)
    assert given_out is None if need > len(used) else len(set(given_out or ())) == need


def test_processes_on_a_leased_gpu_are_not_foreign() -> None:
    busy = gpu(0, processes=2)
    assert foreign(busy, {"GPU-0"}) == 0
    assert foreign(busy, set()) == 2


def test_gpus_that_were_there_are_remembered_while_the_driver_is_silent(driver: Driver) -> None:
    probe = GpuProbe()
    seen = probe().gpus
    driver.alive = False
    report = probe()
    assert report.gpus == seen
    assert report.error is not None
