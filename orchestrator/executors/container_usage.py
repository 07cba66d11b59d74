"""What a container uses, from the engine's statistics of it. Pure: tested without an engine."""

from datetime import datetime
from typing import Any

from orchestrator.executors.base import Usage


def container_usage(stats: dict[str, Any]) -> Usage | None:
    """What the engine's ``GET /containers/{id}/stats`` means, over control groups of both versions; none when the
    container does not run.

    File pages that are not in use count as free, as ``docker stats`` has it: the kernel takes them back at once.
    """
    memory = stats.get("memory_stats") or {}
    used = memory.get("usage")
    if not used:
        return None
    detail = memory.get("stats") or {}
    idle_pages = detail.get("total_inactive_file", detail.get("inactive_file", 0))  # version 1, version 2
    return Usage(
        at=datetime.fromisoformat(stats["read"]).timestamp(),
        cpu_s=stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
        memory_bytes=used - idle_pages if idle_pages < used else used,
    )
