"""Our own layout: ``sae.safetensors`` with the names the code uses, and ``cfg.json``. It can say everything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker_image.sae.files import write_json
from worker_image.sae.formats.deployed import DeployedSae
from worker_image.sae.formats.provenance import Provenance
from worker_image.sae.formats.refusals import Unreadable
from worker_image.sae.formats.stored import read_json, read_tensors, write_tensors

NAME = "saeforge"
_VERSION = 1
_WEIGHTS, _CONFIG = "sae.safetensors", "cfg.json"


def write(sae: DeployedSae, folder: Path, provenance: Provenance) -> None:
    """Write ``sae`` into ``folder``, beside whatever is there."""
    write_tensors(dict(sae.tensors()), folder / _WEIGHTS)
    config = {
        "format": NAME,
        "version": _VERSION,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "d_out": sae.d_out,
        **described(sae),
        "provenance": provenance.to_json(),
    }
    write_json(config, folder / _CONFIG)


def read(folder: Path) -> tuple[DeployedSae, Provenance]:
    """What ``write`` wrote.

    Raises:
        Unreadable: a file is missing or says something that this version does not know.
    """
    config = read_json(folder / _CONFIG)
    if config.get("version") != _VERSION:
        raise Unreadable(f"{folder / _CONFIG} has version {config.get('version')}; this one reads {_VERSION}")
    try:
        arguments: dict[str, Any] = {**read_tensors(folder / _WEIGHTS), **restored(config)}
        sae = DeployedSae(**arguments)
        return sae, Provenance.from_json(config["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"{folder} does not hold what its cfg.json says: {error}") from error


def described(sae: DeployedSae) -> dict[str, object]:
    """What the weights alone do not tell; other layouts keep it under a key that their libraries ignore."""
    return {
        "family": sae.family,
        "wiring": sae.wiring,
        "k": sae.k,
        "multi_topk": sae.multi_topk,
        "group_sizes": list(sae.group_sizes),
    }


def restored(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``DeployedSae`` that ``described`` noted.

    Raises:
        KeyError: one is missing.
    """
    return {
        "family": config["family"],
        "wiring": config["wiring"],
        "k": config["k"],
        "multi_topk": config["multi_topk"],
        "group_sizes": tuple(config["group_sizes"]),
    }
