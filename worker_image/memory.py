"""How much more memory this process may take before the kernel ends it."""

from pathlib import Path

MIB = 2**20

_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Where a container sees its own limit: cgroup v2, v1."""


def available_bytes(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What is left of the container's limit or of the machine, whichever is less; None where neither can be told."""
    left = []
    machine = _kib_field(proc / "meminfo", "MemAvailable")
    if machine is not None:
        left.append(machine)
    # Only anonymous memory: pages of files, such as mapped weights, are given up when memory is short.
    taken = _kib_field(proc / "self" / "status", "RssAnon") or 0
    left += [max(0, limit - taken) for name in _LIMITS if (limit := _limit(cgroup / name)) is not None]
    return min(left, default=None)


def _kib_field(path: Path, name: str) -> int | None:
    """A ``name:   123 kB`` line, in bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _limit(path: Path) -> int | None:
    """Bytes; None when there is no such file or it says "max"."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
