"""The driver's answers turned into GPUs, whatever it refuses to tell. The driver is a table of answers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from orchestrator.gpus import Gpu, GpuProcess
from orchestrator.nvml import THROTTLING, GpuProbe, throttling

NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
NO_PERMISSION = pynvml.NVML_ERROR_NO_PERMISSION
GPU_IS_LOST = pynvml.NVML_ERROR_GPU_IS_LOST
GIB = 1 << 30


@dataclass
class Card:
    """What the driver tells of one GPU or instance; an int stands for the error with that number."""

    uuid: str
    name: str = "H200"
    lost: bool = False
    mig: "list[Card] | None" = None
    """Its instances, when it is partitioned."""
    told: dict[str, Any] = field(default_factory=dict)
    """Function name, without its prefix -> answer, where that is not the usual one."""


USUAL: dict[str, Any] = {
    "MemoryInfo": SimpleNamespace(total=8 * GIB, used=GIB),
    "UtilizationRates": SimpleNamespace(gpu=50),
    "Temperature": 60,
    "PowerUsage": 350_000,
    "EnforcedPowerLimit": 700_000,
    "CurrentClocksEventReasons": pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonGpuIdle,
    "ComputeRunningProcesses": [SimpleNamespace(pid=4321, usedGpuMemory=GIB // 2)],
    "MPSComputeRunningProcesses": pynvml.NVMLError(NOT_SUPPORTED),
    "TotalEccErrors": 0,
    "RemappedRows": (0, 0, 0, 0),
    "CurrentClocksThrottleReasons": pynvml.NVMLError(NOT_SUPPORTED),
    "RetiredPagesPendingStatus": pynvml.NVMLError(NOT_SUPPORTED),
}


class Driver:
    """NVML with these cards."""

    def __init__(self, *cards: Card) -> None:
        self.cards = list(cards)
        self.silent: int | None = None
        """The error with which it refuses everything."""
        self.xids: list[tuple[Card, int]] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in USUAL:
            monkeypatch.setattr(pynvml, f"nvmlDeviceGet{name}", self._figure(name))
        own = {
            "nvmlInit": self._answer,
            "nvmlSystemGetDriverVersion": lambda: "560.35",
            "nvmlSystemGetProcessName": lambda pid: b"/usr/bin/python3.11",
            "nvmlDeviceGetCount": lambda: self._answer() or len(self.cards),
            "nvmlDeviceGetHandleByIndex": lambda index: self._reached(self.cards[index]),
            "nvmlDeviceGetUUID": lambda card: card.uuid.encode(),
            "nvmlDeviceGetName": lambda card: card.name,
            "nvmlDeviceGetMigMode": self._mig_mode,
            "nvmlDeviceGetMaxMigDeviceCount": lambda card: 7,
            "nvmlDeviceGetMigDeviceHandleByIndex": self._instance,
            "nvmlEventSetCreate": lambda: "events",
            "nvmlDeviceRegisterEvents": lambda *_: None,
            "nvmlEventSetWait_v2": self._next_event,
        }
        for name, answer in own.items():
            monkeypatch.setattr(pynvml, name, answer)

    def _answer(self) -> None:
        if self.silent is not None:
            raise pynvml.NVMLError(self.silent)

    def _reached(self, card: Card) -> Card:
        self._answer()
        if card.lost:
            raise pynvml.NVMLError(GPU_IS_LOST)
        return card

    def _figure(self, name: str) -> Callable[..., Any]:
        def figure(card: Card, *_: Any) -> Any:
            found = card.told.get(name, USUAL[name])
            if isinstance(found, pynvml.NVMLError):
                raise found
            return found

        return figure

    def _mig_mode(self, card: Card) -> tuple[int, int]:
        if card.mig is None:
            raise pynvml.NVMLError(NOT_SUPPORTED)
        return (1, 1)

    def _instance(self, card: Card, number: int) -> Card:
        if number >= len(card.mig or ()):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        assert card.mig is not None
        return card.mig[number]

    def _next_event(self, *_: Any) -> Any:
        if not self.xids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        card, xid = self.xids.pop(0)
        return SimpleNamespace(device=card, eventData=xid)


Drive = Callable[..., Driver]


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> Drive:
    def drive(*cards: Card) -> Driver:
        driver = Driver(*cards)
        driver.install(monkeypatch)
        return driver

    return drive


def refusing(code: int, *names: str) -> dict[str, Any]:
    return {name: pynvml.NVMLError(code) for name in names}


def only(gpus: tuple[Gpu, ...]) -> Gpu:
    (one,) = gpus
    return one


def test_a_gpu_is_told_with_all_its_figures(drive: Drive) -> None:
    drive(Card("GPU-a"))
    report = GpuProbe()()
    assert report.driver == "560.35"
    assert report.gpus == (
        Gpu(
            uuid="GPU-a",
            index=0,
            name="H200",
            memory_total_mb=8192,
            memory_used_mb=1024,
            utilization=0.5,
            temperature_c=60.0,
            power_w=350.0,
            processes=(GpuProcess(4321, "python3.11", 512),),
            power_limit_w=700.0,
            throttling=("power limit",),
            uncorrected_errors=0,
        ),
    )


@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND])
def test_figures_it_does_not_give_are_empty(drive: Drive, code: int) -> None:
    names = [name for name in USUAL if name != "MemoryInfo"]
    drive(Card("GPU-a", told=refusing(code, *names)))
    assert only(GpuProbe()().gpus) == Gpu("GPU-a", 0, "H200", 8192, 1024)


def test_a_gpu_without_memory_of_its_own_is_told_all_the_same(drive: Drive) -> None:
    drive(Card("GPU-a", told=refusing(NOT_SUPPORTED, "MemoryInfo")))
    assert only(GpuProbe()().gpus).memory_total_mb == 0


def test_without_a_driver_there_are_no_gpus_and_no_exception(drive: Drive) -> None:
    drive().silent = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    report = GpuProbe()()
    assert report.gpus == ()
    assert report.error is not None


def test_a_driver_that_comes_back_is_seen_again(drive: Drive) -> None:
    driver, probe = drive(Card("GPU-a")), GpuProbe()
    seen = probe()
    driver.silent = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    assert probe().error is not None
    driver.silent = None
    assert probe() == seen


def test_gpus_that_were_there_are_remembered_while_the_driver_is_silent(drive: Drive) -> None:
    driver, probe = drive(Card("GPU-a")), GpuProbe()
    seen = probe().gpus
    driver.silent = pynvml.NVML_ERROR_UNINITIALIZED
    assert probe().gpus == seen


def test_a_gpu_that_is_lost_is_marked_and_the_others_are_told_as_before(drive: Drive) -> None:
    driver, probe = drive(Card("GPU-a"), Card("GPU-b")), GpuProbe()
    before = probe().gpus
    driver.cards[0].lost = True
    report = probe()
    assert report.error is None
    gone, well = report.gpus
    assert gone.lost
    assert "lost" in gone.problems[0]
    assert gone.memory_total_mb == 8192
    assert well == before[1]


def test_a_gpu_that_is_lost_between_two_questions_is_marked_too(drive: Drive) -> None:
    driver, probe = drive(Card("GPU-a")), GpuProbe()
    probe()
    driver.cards[0].told = refusing(GPU_IS_LOST, "UtilizationRates")
    assert only(probe().gpus).lost


def test_a_gpu_that_is_no_longer_counted_is_lost_and_stays_so(drive: Drive) -> None:
    driver, probe = drive(Card("GPU-a"), Card("GPU-b")), GpuProbe()
    probe()
    driver.cards.pop()
    for _ in range(2):
        assert [gpu.lost for gpu in probe().gpus] == [False, True]


def test_a_gpu_that_never_answered_is_told_of_in_words(drive: Drive) -> None:
    drive(Card("GPU-a", lost=True), Card("GPU-b"))
    report = GpuProbe()()
    assert [gpu.uuid for gpu in report.gpus] == ["GPU-b"]
    assert "GPU 0" in report.unread[0]


def test_of_a_partitioned_gpu_its_instances_are_told(drive: Drive) -> None:
    parts = [Card(f"MIG-{number}", name="H200 MIG 1g.18gb") for number in range(2)]
    for part in parts:
        part.told = refusing(NOT_SUPPORTED, *(name for name in USUAL if name != "MemoryInfo"))
    drive(Card("GPU-a", mig=parts), Card("GPU-b"))
    gpus = GpuProbe()().gpus
    assert [(gpu.uuid, gpu.index, gpu.instance) for gpu in gpus] == [
        ("MIG-0", 0, 0),
        ("MIG-1", 0, 1),
        ("GPU-b", 1, None),
    ]
    assert gpus[0].temperature_c == 60
    assert gpus[0].utilization is None


def test_instances_that_were_taken_away_are_not_lost(drive: Drive) -> None:
    card = Card("GPU-a", mig=[Card("MIG-0"), Card("MIG-1")])
    drive(card)
    probe = GpuProbe()
    probe()
    assert card.mig is not None
    card.mig.pop()
    assert [gpu.uuid for gpu in probe().gpus] == ["MIG-0"]


def test_a_gpu_that_was_partitioned_meanwhile_is_not_lost(drive: Drive) -> None:
    card = Card("GPU-a")
    drive(card)
    probe = GpuProbe()
    probe()
    card.mig = [Card("MIG-0")]
    assert [gpu.uuid for gpu in probe().gpus] == ["MIG-0"]


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ({"TotalEccErrors": 3}, "3 uncorrectable"),
        ({"RemappedRows": (0, 1, 1, 0)}, "to be replaced"),
        ({"RemappedRows": (0, 1, 1, 1)}, "exchanged"),
    ],
)
def test_what_is_wrong_with_its_memory_is_told_in_words(drive: Drive, told: dict[str, Any], word: str) -> None:
    drive(Card("GPU-a", told=told))
    assert word in only(GpuProbe()().gpus).problems[0]


@pytest.mark.parametrize(("xid", "problems"), [(79, 1), (13, 0)])
def test_the_last_xid_is_kept_and_is_a_problem_only_when_the_hardware_made_it(
    drive: Drive, xid: int, problems: int
) -> None:
    driver, probe = drive(Card("GPU-a")), GpuProbe()
    probe()
    driver.xids.append((driver.cards[0], xid))
    probe()
    seen = only(probe().gpus)
    assert (seen.last_xid, len(seen.problems)) == (xid, problems)


def test_every_reason_for_throttling_has_its_words() -> None:
    everything = sum(bit for bit, _ in THROTTLING)
    assert throttling(everything) == tuple(words for _, words in THROTTLING)
    assert throttling(pynvml.nvmlClocksEventReasonGpuIdle) == ()


def test_a_process_whose_memory_is_not_told_is_there_all_the_same(drive: Drive) -> None:
    drive(Card("GPU-a", told={"ComputeRunningProcesses": [SimpleNamespace(pid=1, usedGpuMemory=None)]}))
    assert only(GpuProbe()().gpus).processes[0].memory_mb is None


def test_processes_behind_the_drivers_server_count_once(drive: Drive) -> None:
    one, two = (SimpleNamespace(pid=pid, usedGpuMemory=GIB) for pid in (1, 2))
    drive(Card("GPU-a", told={"ComputeRunningProcesses": [one], "MPSComputeRunningProcesses": [one, two]}))
    assert sorted(process.pid for process in only(GpuProbe()().gpus).processes) == [1, 2]
