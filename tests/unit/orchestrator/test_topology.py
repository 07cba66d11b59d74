import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gpus import Gpu
from orchestrator.topology import NVLINK, Topology, read_topology


def gpu(index: int, used_mb: int = 0, temperature_c: float | None = None) -> Gpu:
    return Gpu(f"GPU-{index}", index, "H200", 1000, used_mb, temperature_c=temperature_c)


def pairs(**distances: int) -> Topology:
    """Distances by the two indices, e.g. ``_01=10``."""
    return Topology({frozenset((f"GPU-{name[1]}", f"GPU-{name[2]}")): far for name, far in distances.items()})


def test_one_gpu_is_the_emptiest_and_of_those_the_coolest() -> None:
    free = [gpu(0, 500, 30), gpu(1, 0, 70), gpu(2, 0, 50)]
    assert Topology().assign(free, 1) == ("GPU-2",)


def test_several_are_as_close_as_can_be() -> None:
    apart = pairs(_01=50, _02=10, _03=50, _12=50, _13=10, _23=50)
    assert apart.assign([gpu(0), gpu(1), gpu(3)], 2) == ("GPU-1", "GPU-3")


def test_among_pairs_as_close_the_emptiest_is_given() -> None:
    apart = pairs(_01=10, _02=50, _03=50, _12=50, _13=50, _23=10)
    assert apart.assign([gpu(0, 900), gpu(1), gpu(2), gpu(3)], 2) == ("GPU-2", "GPU-3")


def test_where_the_driver_does_not_tell_neighbours_are_given() -> None:
    assert Topology().assign([gpu(0), gpu(2), gpu(5), gpu(6)], 2) == ("GPU-5", "GPU-6")


@given(st.lists(st.integers(0, 1000), max_size=8), st.integers(0, 10))
def test_as_many_as_asked_for_or_none(used: list[int], need: int) -> None:
    given_out = Topology().assign([gpu(index, mb) for index, mb in enumerate(used)], need)
    assert given_out is None if need > len(used) else len(set(given_out or ())) == need


def test_nvlink_counts_as_closer_than_any_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    linked = {frozenset(("GPU-0", "GPU-1"))}

    def status(one: str, other: str, _: object) -> int:
        joined = frozenset((one, other)) in linked
        return int(pynvml.NVML_P2P_STATUS_OK if joined else pynvml.NVML_P2P_STATUS_NOT_SUPPORTED)

    for name, answer in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetTopologyCommonAncestor": lambda one, other: pynvml.NVML_TOPOLOGY_NODE,
        "nvmlDeviceGetP2PStatus": status,
    }.items():
        monkeypatch.setattr(pynvml, name, answer)
    found = read_topology([gpu(0), gpu(1), gpu(2)])
    assert found.distance(gpu(0), gpu(1)) == NVLINK
    assert found.distance(gpu(1), gpu(2)) == pynvml.NVML_TOPOLOGY_NODE


def test_a_driver_that_does_not_answer_tells_no_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", silent)
    assert read_topology([gpu(0), gpu(1)]) == Topology()
