"""The machine the orchestrator runs on: processors, memory, disk, and what the orchestrator itself takes of them."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

_LEAST_SPAN_S: Final = 0.5
"""Shares of time over a shorter span would say more about the clock than about the processors."""


@dataclass(frozen=True, slots=True)
class HostReading:
    """One look at the machine."""

    cpu_percent: float
    """Of all cores together, 0 to 100."""
    core_percent: tuple[float, ...]
    load: tuple[float, float, float]
    """Tasks that run or want to, averaged over 1, 5 and 15 minutes."""
    memory_total: int
    """Bytes, as all that follow."""
    memory_used: int
    swap_total: int
    swap_used: int
    disk_total: int
    disk_free: int
    """What an ordinary user may still write under the home."""
    inodes_total: int
    """Files the disk can hold; 0 where it knows no such limit."""
    inodes_free: int
    own_rss: int
    """Memory of the orchestrator's own process."""
    own_cpu_percent: float
    """Of one core."""
    own_cpu_s: float
    """Processor time since the orchestrator started."""
    own_files: int
    """Descriptors it holds open."""


class Host:
    """Looks at the machine. Blocking: call it off the event loop. Shares of time are since the look before."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process = psutil.Process()
        self._at = time.monotonic()
        self._cores = psutil.cpu_times(percpu=True)
        self._own_cpu_s = self._own()
        self._shares: tuple[tuple[float, ...], float] = (tuple(0.0 for _ in self._cores), 0.0)

    def read(self) -> HostReading:
        core_percent, own_cpu_percent = self._percent()
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        disk = os.statvfs(self._home)
        return HostReading(
            cpu_percent=sum(core_percent) / len(core_percent),
            core_percent=core_percent,
            load=psutil.getloadavg(),
            memory_total=memory.total,
            memory_used=memory.total - memory.available,
            swap_total=swap.total,
            swap_used=swap.used,
            # Of what root keeps for itself nobody else can write, so it counts as used.
            disk_total=disk.f_blocks * disk.f_frsize,
            disk_free=disk.f_bavail * disk.f_frsize,
            inodes_total=disk.f_files,
            inodes_free=disk.f_favail,
            own_rss=self._process.memory_info().rss,
            own_cpu_percent=own_cpu_percent,
            own_cpu_s=self._own(),
            own_files=self._process.num_fds(),
        )

    def _own(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _percent(self) -> tuple[tuple[float, ...], float]:
        now = time.monotonic()
        if now - self._at < _LEAST_SPAN_S:
            return self._shares
        cores, own_cpu_s = psutil.cpu_times(percpu=True), self._own()
        if len(cores) == len(self._cores):
            shares = tuple(_busy(before, after) for before, after in zip(self._cores, cores, strict=True))
        else:  # a core went off or came on
            shares = tuple(0.0 for _ in cores)
        self._shares = shares, 100 * (own_cpu_s - self._own_cpu_s) / (now - self._at)
        self._at, self._cores, self._own_cpu_s = now, cores, own_cpu_s
        return self._shares


def _busy(before: Any, after: Any) -> float:
    """Share of the time between two readings of a core's clock that it was not idle, in percent."""
    # Time spent for guests is counted in user time as well.
    spent = [now - then for name, now, then in zip(after._fields, after, before, strict=True) if "guest" not in name]
    idle = (after.idle - before.idle) + (getattr(after, "iowait", 0.0) - getattr(before, "iowait", 0.0))
    total = sum(spent)
    return 0.0 if total <= 0 else min(100.0, max(0.0, 100 * (1 - idle / total)))
