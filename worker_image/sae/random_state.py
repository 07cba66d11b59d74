"""Where every random generator stands: torch's on the CPU and on each GPU, numpy's, and Python's own."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """What a checkpoint keeps of the generators."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """``cpu``, ``cuda.<device>``, ``numpy``: their states."""
    values: dict[str, object] = field(default_factory=dict)
    """What of numpy's and Python's is no tensor."""


def random_state() -> RandomState:
    """Where the generators stand now."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        tensors |= {f"cuda.{device}": state for device, state in enumerate(torch.cuda.get_rng_state_all())}
    # Code that was written for numpy's global generator may still draw from it, a model's own among it.
    _, keys, position, has_gauss, cached_gauss = np.random.get_state(legacy=True)
    tensors["numpy"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
    version, internal, gauss_next = random.getstate()
    return RandomState(
        tensors,
        {
            "numpy": [int(position), int(has_gauss), float(cached_gauss)],
            "python": [version, list(internal), gauss_next],
        },
    )


def restore_random_state(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Put the generators where they stood.

    A GPU that is not here any more is left out: a training that moves to another machine goes on, only not bit for
    bit.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: that is no state of theirs.
    """
    torch.set_rng_state(tensors["cpu"])
    for device in range(torch.cuda.device_count()):
        if f"cuda.{device}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{device}"], device)
    position, has_gauss, cached_gauss = values["numpy"]
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, cached_gauss))
    version, internal, gauss_next = values["python"]
    random.setstate((version, tuple(internal), gauss_next))
