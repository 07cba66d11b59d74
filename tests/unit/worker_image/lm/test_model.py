"""Loading a model, or saying why not."""

import shutil
from pathlib import Path

import pytest
import torch

from worker_image.errors import UserError
from worker_image.lm.model import find_model, load_model


def refusal(reference: str, hookpoint: str = "layers.0") -> UserError:
    with pytest.raises(UserError) as caught:
        load_model(find_model(reference, [hookpoint], network=False), torch.float32, torch.device("cpu"))
    assert caught.value.suggestion
    return caught.value


@pytest.fixture
def broken(bert: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(bert, tmp_path / "model"))


def test_the_longest_sequence_is_known_before_weights_are_read(bert: Path) -> None:
    assert find_model(str(bert), ["layers.0"], network=False).longest == 32


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    error = refusal(str(tmp_path / "gone"))
    assert error.field == "model"
    assert str(tmp_path / "gone") in error.message


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_the_models_fault(broken: Path, missing: str) -> None:
    (broken / missing).unlink()
    assert refusal(str(broken)).field == "model"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_links_that_lead_out_to_nothing_are_called_that(broken: Path, name: str) -> None:
    (broken / name).unlink()
    (broken / name).symlink_to("../../blobs/0123abcd")
    error = refusal(str(broken))
    assert "holds links to files outside the directory, which are not there" in error.message
    assert error.suggestion == "copy the model with its files (cp -rL)"


def test_a_hub_cache_with_its_blobs_can_be_read(bert: Path, tmp_path: Path) -> None:
    blobs = Path(shutil.copytree(bert, tmp_path / "blobs"))
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    load_model(find_model(str(snapshot), ["layers.0"], network=False), torch.float32, torch.device("cpu"))


def test_pickled_weights_are_never_loaded(broken: Path) -> None:
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    assert "pickled" in refusal(str(broken)).message


@pytest.mark.parametrize("damage", [b"", b"not safetensors at all"])
def test_damaged_weights_are_refused(broken: Path, damage: bytes) -> None:
    (broken / "model.safetensors").write_bytes(damage)
    assert "weights" in refusal(str(broken)).message


def test_weights_of_another_architecture_are_refused(broken: Path, gpt2: Path) -> None:
    shutil.copy(gpt2 / "model.safetensors", broken)
    assert "another architecture" in refusal(str(broken)).message


def test_a_file_in_the_models_place_is_refused(corpus: Path) -> None:
    assert "not a directory" in refusal(str(corpus)).message


def test_a_damaged_config_is_refused(broken: Path) -> None:
    (broken / "config.json").write_text("{")
    assert refusal(str(broken)).field == "model"


def test_a_hub_id_without_network_is_refused_at_once() -> None:
    assert "no network" in refusal("someone/some-model").message


def test_an_unknown_hookpoint_is_refused_before_weights_are_read(broken: Path) -> None:
    (broken / "model.safetensors").write_bytes(b"unreadable")
    assert refusal(str(broken), "layers.9").field == "hookpoint"
