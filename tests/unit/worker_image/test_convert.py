"""Autoencoders are converted from whatever they are in, into what was asked for, or nothing is left."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.worker_image.sae.formats.saes import some_sae
from worker_image.convert import difference_between, main
from worker_image.sae.formats.deployed import DeployedSae
from worker_image.sae.formats.library import LAYOUTS, layout_of, read_sae
from worker_image.sae.formats.provenance import Provenance


@pytest.fixture
def source(tmp_path: Path) -> Path:
    LAYOUTS["saelens"].write(some_sae("topk"), tmp_path / "source", Provenance(model="m", hookpoint="layers.1"))
    return tmp_path / "source"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_autoencoder_is_converted_with_all_that_is_known_of_it(
    layout: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(source), str(tmp_path / "made"), f"--to={layout}"]) == 0
    assert layout_of(tmp_path / "made").name == layout
    sae, provenance = read_sae(tmp_path / "made")
    assert difference_between(sae, some_sae("topk")) < 1e-6
    assert (provenance.model, provenance.hookpoint) == ("m", "layers.1")
    assert f"saelens to {layout}: topk autoencoder, 6 wide, 16 latents" in capsys.readouterr().out


def test_a_file_of_the_folder_means_the_folder(source: Path, tmp_path: Path) -> None:
    assert main([str(source / "cfg.json"), str(tmp_path / "made"), "--to=sparsify"]) == 0


def test_what_the_layout_cannot_express_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LAYOUTS["saelens"].write(some_sae("gated"), tmp_path / "source", Provenance())
    assert main([str(tmp_path / "source"), str(tmp_path / "made"), "--to=sparsify"]) == 2
    assert not (tmp_path / "made").exists()
    assert "sparsify has no gated autoencoders, only topk\n  → export to saelens" in capsys.readouterr().err


def test_a_folder_that_holds_something_is_not_written_into(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "precious").write_text("mine")
    assert main([str(source), str(tmp_path / "made"), "--to=sparsify"]) == 2
    assert (tmp_path / "made" / "precious").read_text() == "mine"
    assert "there already" in capsys.readouterr().err


def test_an_unknown_format_is_answered_with_those_there_are(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(source), str(tmp_path / "made"), "--to=onnx"]) == 2
    assert "choose one of: saeforge, saelens, sparsify, dictionary_learning" in capsys.readouterr().err


def test_a_mistake_in_writing_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = LAYOUTS["sparsify"]

    def misread(folder: Path) -> tuple[DeployedSae, Provenance]:
        sae, provenance = right.read(folder)
        return replace(sae, W_dec_FE=sae.W_dec_FE * 1.1, b_dec_E=sae.b_dec_E * 1.1), provenance

    monkeypatch.setitem(LAYOUTS, "sparsify", replace(right, read=misread))
    assert main([str(source), str(tmp_path / "made"), "--to=sparsify"]) == 2
    assert "differs by" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
