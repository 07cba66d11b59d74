"""Paths as the container engine sees them.

An orchestrator that runs in a container starts *sibling* containers: the engine resolves the sources of their mounts
on the host, so the orchestrator's own paths have to be translated first.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

_OWN_ID = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf)$")


class NotOnHost(LookupError):
    """The path is on no volume that the engine can see."""


@dataclass(frozen=True, slots=True)
class HostPaths:
    """Translates the orchestrator's paths into the engine's. Without any mapping both are the same."""

    mappings: tuple[tuple[Path, PurePosixPath], ...] = ()
    """(own path, the engine's path for it) of each shared directory."""

    def translate(self, path: Path) -> str:
        """The engine's name for ``path``.

        Raises:
            NotOnHost: the orchestrator runs in a container and shares no directory that holds the path.
        """
        if not self.mappings:
            return str(path)
        for own, host in sorted(self.mappings, key=lambda pair: len(pair[0].parts), reverse=True):
            if path.is_relative_to(own):
                return str(host / path.relative_to(own))
        raise NotOnHost(str(path))

    @classmethod
    def from_mounts(cls, mounts: Iterable[Mapping[str, Any]]) -> "HostPaths":
        """From the ``Mounts`` of the orchestrator's own container, as the engine reports them."""
        return cls(
            tuple((Path(mount["Destination"]), PurePosixPath(mount["Source"])) for mount in mounts if mount["Source"])
        )


def own_container_id(mountinfo: str) -> str | None:
    """The id of the container this process runs in, from the text of ``/proc/self/mountinfo``; none on a host.

    The engine binds a container's own hostname and resolver files into it; a host has no such mounts. The host name
    would not do: anyone can set it.
    """
    for line in mountinfo.splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[4] in {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}:
            found = _OWN_ID.search(fields[3])
            if found:
                return found.group(1)
    return None
