"""Which layouts there are, and which one a folder is in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worker_image.sae.formats import dictionary_learning, native, saelens, sparsify
from worker_image.sae.formats.deployed import DeployedSae
from worker_image.sae.formats.provenance import Provenance
from worker_image.sae.formats.refusals import Unreadable
from worker_image.sae.formats.stored import read_json


@dataclass(frozen=True)
class Layout:
    """One way of storing an autoencoder in a folder."""

    name: str
    write: Callable[[DeployedSae, Path, Provenance], None]
    """Raises CannotExpress."""
    read: Callable[[Path], tuple[DeployedSae, Provenance]]
    """Raises Unreadable."""


LAYOUTS: dict[str, Layout] = {
    module.NAME: Layout(module.NAME, module.write, module.read)
    for module in (native, saelens, sparsify, dictionary_learning)
}


def layout_of(folder: Path) -> Layout:
    """The layout that ``folder`` is in, told from the names of its files.

    Raises:
        Unreadable: none of them.
    """
    if (folder / "ae.pt").is_file():
        return LAYOUTS[dictionary_learning.NAME]
    if (folder / "sae_weights.safetensors").is_file():
        return LAYOUTS[saelens.NAME]
    if (folder / "sae.safetensors").is_file():
        ours = read_json(folder / "cfg.json").get("format") == native.NAME
        return LAYOUTS[native.NAME if ours else sparsify.NAME]
    raise Unreadable(
        f"{folder} holds no autoencoder: neither sae.safetensors, sae_weights.safetensors nor ae.pt",
        "name the folder that holds these files",
    )


def read_sae(folder: Path) -> tuple[DeployedSae, Provenance]:
    """The autoencoder in ``folder``, whatever its layout.

    Raises:
        Unreadable: there is none, or it cannot be had here.
    """
    return layout_of(folder).read(folder)
