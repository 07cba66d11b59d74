"""The files of an exported autoencoder: whole or not there when written, named when they cannot be read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker_image.sae.files import draft_of, settle
from worker_image.sae.formats.refusals import Unreadable


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file of ``tensors`` in float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    save_file({name: value.detach().float().cpu().contiguous().clone() for name, value in tensors.items()}, draft)
    settle(draft, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, in float32.

    Raises:
        Unreadable: it is missing or not one.
    """
    try:
        return {name: value.float() for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise Unreadable(f"{path} cannot be read: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        Unreadable: it is missing, or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise Unreadable(f"{path} does not hold an object")
    return content
