"""How close GPUs are to each other, and which of the free ones to give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pynvml

from orchestrator.gpus import Gpu

NVLINK = 5
"""Distance of two GPUs joined by NVLink. NVML's own levels go from 10 (one PCIe switch) to 50 (across NUMA nodes)."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Distances between pairs of GPUs. Where the driver tells none, neighbours by index count as close."""

    distances: Mapping[frozenset[str], int] = field(default_factory=dict)
    """Two UUIDs -> how far apart, in NVML's levels."""

    def distance(self, one: Gpu, other: Gpu) -> int:
        known = self.distances.get(frozenset((one.uuid, other.uuid)))
        return abs(one.index - other.index) if known is None else known

    def assign(self, free: Sequence[Gpu], need: int) -> tuple[str, ...] | None:
        """UUIDs of ``need`` of the free GPUs, in the order of their indices, or none when there are too few.

        Several are chosen as close together as can be. One, and what is left equal, is the emptiest, then the coolest.
        """
        if need > len(free):
            return None
        by_rest = sorted(free, key=_restfulness)
        if need <= 1 or need == len(free):
            chosen = by_rest[:need]
        else:
            chosen = min((self._around(seed, by_rest, need) for seed in by_rest), key=self._merit)
        return tuple(gpu.uuid for gpu in sorted(chosen, key=lambda gpu: gpu.index))

    def _around(self, seed: Gpu, free: Sequence[Gpu], need: int) -> list[Gpu]:
        """The seed and its nearest, each next one nearest to all chosen before."""
        chosen, rest = [seed], [gpu for gpu in free if gpu is not seed]
        reach = [self.distance(seed, gpu) for gpu in rest]
        while len(chosen) < need:
            nearest = min(range(len(rest)), key=reach.__getitem__)
            chosen.append(rest.pop(nearest))
            del reach[nearest]
            reach = [far + self.distance(chosen[-1], gpu) for far, gpu in zip(reach, rest, strict=True)]
        return chosen

    def _merit(self, gpus: Sequence[Gpu]) -> tuple[int, int, float]:
        """The less the better: distance, then memory in use, then heat."""
        spread = sum(self.distance(one, other) for place, one in enumerate(gpus) for other in gpus[place + 1 :])
        return spread, sum(gpu.memory_used_mb for gpu in gpus), sum(gpu.temperature_c or 0.0 for gpu in gpus)


def read_topology(gpus: Sequence[Gpu]) -> Topology:
    """Ask the driver about every pair. Blocking, and empty where it does not tell."""
    try:
        pynvml.nvmlInit()
        try:
            handles = {gpu.uuid: pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid) for gpu in gpus}
            return Topology(
                {
                    frozenset((one, other)): _distance(handles[one], handles[other])
                    for one in handles
                    for other in handles
                    if one < other
                }
            )
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return Topology()


def _distance(one: object, other: object) -> int:
    level = int(pynvml.nvmlDeviceGetTopologyCommonAncestor(one, other))
    try:
        linked = pynvml.nvmlDeviceGetP2PStatus(one, other, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
    except pynvml.NVMLError:
        return level
    return min(level, NVLINK) if linked == pynvml.NVML_P2P_STATUS_OK else level


def _restfulness(gpu: Gpu) -> tuple[int, float, int]:
    return gpu.memory_used_mb, gpu.temperature_c or 0.0, gpu.index
