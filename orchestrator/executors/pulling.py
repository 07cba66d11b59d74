"""How far an engine is with pulling an image."""

from collections.abc import Mapping
from typing import Any

_MIB = 1 << 20
_WAITS = frozenset({"Pulling fs layer", "Waiting", "Downloading"})
"""What is said of a layer that is still to come."""


class Pull:
    """Takes what the engine says of each layer."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._loaded: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._layers: set[str] = set()
        self._missing: set[str] = set()

    def take(self, line: Mapping[str, Any]) -> None:
        """One line of the engine's answer."""
        layer, status = line.get("id"), line.get("status")
        if not isinstance(layer, str) or not isinstance(status, str) or status.startswith("Pulling from"):
            return
        self._layers.add(layer)
        if status not in _WAITS:
            self._missing.discard(layer)
            self._loaded[layer] = self._sizes.get(layer, 0)
            return
        self._missing.add(layer)
        progress = line.get("progressDetail") or {}
        if progress.get("total"):
            self._sizes[layer] = int(progress["total"])
            self._loaded[layer] = int(progress.get("current") or 0)

    def __str__(self) -> str:
        told = f"pulling image {self._image}"
        if not self._layers:
            return told
        there = len(self._layers) - len(self._missing)
        loaded, size = sum(self._loaded.values()), sum(self._sizes.values())
        return f"{told}: {there} of {len(self._layers)} layers, {loaded // _MIB} of {size // _MIB} MiB"
