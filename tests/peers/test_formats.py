"""What is exported computes the same in the library it is for, and what that library saves computes the same here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.peers.environment import run_program
from tests.unit.worker_image.sae.formats.saes import D, drawn, every_sae
from worker_image.sae.formats.deployed import DeployedSae
from worker_image.sae.formats.library import LAYOUTS, read_sae
from worker_image.sae.formats.provenance import Provenance
from worker_image.sae.formats.refusals import CannotExpress

LIBRARIES = ("saelens", "sparsify", "dictionary_learning")
X_BD = drawn(64, D, seed=9)


@dataclass(frozen=True)
class Exchanged:
    """What one library made of our exports, and made itself."""

    ours: Mapping[str, DeployedSae]
    """Those that its layout can express, by name."""
    given: Mapping[str, Tensor]
    """``<name>.latents`` and ``<name>.output`` that the library computed with them."""
    again: Path
    """Where it saved each of them."""
    own: Path
    """Where it saved those that it made itself."""
    computed: Mapping[str, Tensor]
    """What it computed with these."""


@pytest.fixture(scope="module", params=LIBRARIES)
def exchanged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exchanged:
    folder = tmp_path_factory.mktemp(request.param)
    given, made = folder / "given", folder / "made"
    given.mkdir()
    made.mkdir()
    ours = {}
    for name, sae in every_sae():
        try:
            LAYOUTS[request.param].write(sae, given / name, Provenance(model="m", hookpoint="layers.3"))
        except CannotExpress:
            continue
        ours[name] = sae
    save_file({"x": X_BD}, given / "inputs.safetensors")
    run_program("exchange_saes", request.param, given, made)
    theirs = load_file(made / "given.safetensors")
    return Exchanged(ours, theirs, made / "again", made / "own", load_file(made / "own.safetensors"))


def close(actual: Tensor, expected: Tensor, about: str) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5, msg=lambda text: f"{about}: {text}")


def computes(sae: DeployedSae, latents_BF: Tensor, output_BE: Tensor, about: str) -> None:
    close(sae.encode(X_BD), latents_BF, f"{about}, latents")
    close(sae.decode(latents_BF, X_BD), output_BE, f"{about}, output")


def test_the_library_computes_what_we_exported(exchanged: Exchanged) -> None:
    assert exchanged.ours
    for name, sae in exchanged.ours.items():
        assert sae.encode(X_BD).count_nonzero(), f"{name} would be equal by being silent"
        computes(sae, exchanged.given[f"{name}.latents"], exchanged.given[f"{name}.output"], name)


def test_what_the_library_saved_of_ours_is_read_as_it_was(exchanged: Exchanged) -> None:
    for name in exchanged.ours:
        sae, _ = read_sae(exchanged.again / name)
        computes(sae, exchanged.given[f"{name}.latents"], exchanged.given[f"{name}.output"], name)


def test_what_the_library_made_is_computed_alike(exchanged: Exchanged) -> None:
    folders = list(exchanged.own.iterdir())
    assert folders
    for folder in folders:
        sae, _ = read_sae(folder)
        latents_BF = exchanged.computed[f"{folder.name}.latents"]
        computes(sae, latents_BF, exchanged.computed[f"{folder.name}.output"], folder.name)
