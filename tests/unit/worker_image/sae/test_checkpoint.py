"""Checkpoints: whole or absent, verified when read, the newest kept."""

import errno
import json
from pathlib import Path

import pytest
import torch

from worker_image.sae.checkpoint import (
    CheckpointCorrupt,
    SavedCheckpoint,
    checkpoints_in,
    load_checkpoint,
    retain_newest,
    save_checkpoint,
    verify_checkpoint,
)
from worker_image.sae.config import SaeConfig
from worker_image.sae.trainer import Trainer


def trained(steps: int = 2) -> Trainer:
    made = Trainer(SaeConfig(d_in=4, d_sae=8, k=2))
    for _ in range(steps):
        made.train_step(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)))
    return made


def save(folder: Path, trainer: Trainer) -> SavedCheckpoint:
    return save_checkpoint(folder, trainer.state(), {"position": 7}, {"k": 2})


def test_everything_written_comes_back(tmp_path: Path) -> None:
    made = trained()
    made.peak_lr = 0.05
    loaded = load_checkpoint(save(tmp_path, made).path)
    assert (loaded.data, loaded.params) == ({"position": 7}, {"k": 2})
    state = made.state()
    assert (loaded.trainer.step, loaded.trainer.tokens_trained, loaded.trainer.peak_lr) == (2, 32, 0.05)
    assert loaded.trainer.loss == state.loss
    assert torch.equal(loaded.trainer.tokens_since_fired_F, state.tokens_since_fired_F)
    for found, wanted in ((loaded.trainer.model, state.model), (loaded.trainer.optimizer, state.optimizer)):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_random_generator_is_put_back(tmp_path: Path) -> None:
    saved = save(tmp_path, trained())
    wanted = torch.rand(3)
    torch.rand(10)
    load_checkpoint(saved.path)
    assert torch.equal(torch.rand(3), wanted)


def test_the_size_and_digest_are_those_of_the_files(tmp_path: Path) -> None:
    saved = save(tmp_path, trained())
    assert saved.path.name == "step_2"
    assert saved.size_bytes == sum(file.stat().st_size for file in saved.path.iterdir())
    assert saved.digest == json.loads((saved.path / "manifest.json").read_text())["digest"]


def test_it_holds_safetensors_and_json_only(tmp_path: Path) -> None:
    assert {file.suffix for file in save(tmp_path, trained()).path.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize("name", ["sae.safetensors", "training.safetensors", "state.json", "manifest.json"])
def test_a_changed_byte_is_noticed(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, trained()).path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointCorrupt):
        load_checkpoint(path.parent)


@pytest.mark.parametrize("name", ["sae.safetensors", "training.safetensors", "state.json", "manifest.json"])
def test_a_missing_file_is_noticed(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, trained()).path / name
    path.unlink()
    with pytest.raises(CheckpointCorrupt):
        verify_checkpoint(path.parent)


def test_a_truncated_file_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, trained()).path / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointCorrupt, match=r"training\.safetensors"):
        load_checkpoint(path.parent)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    made = trained()
    first = save(tmp_path, made)
    made.peak_lr = 0.09
    second = save(tmp_path, made)
    assert first.path == second.path
    assert first.digest != second.digest
    assert load_checkpoint(second.path).trainer.peak_lr == 0.09
    assert [path.name for path in tmp_path.iterdir()] == ["step_2"]


def test_a_step_saved_again_is_whole_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trained()
    final = save(tmp_path, made).path
    made.peak_lr = 0.09
    found: list[float] = []

    def look(folder: Path) -> None:
        found.append(load_checkpoint(final).trainer.peak_lr)

    def refuse(self: Path, target: Path) -> Path:
        raise AssertionError(f"{self.name} was moved away while {target.name} was not there yet")

    monkeypatch.setattr("worker_image.sae.checkpoint.sync_directory", look)
    monkeypatch.setattr(Path, "rename", refuse)
    save(tmp_path, made)
    assert found == [SaeConfig(d_in=4, d_sae=8, k=2).peak_lr, 0.09]


def test_a_step_is_replaced_where_names_cannot_be_swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(one: Path, other: Path) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("worker_image.sae.checkpoint.exchange", refuse)
    made = trained()
    save(tmp_path, made)
    made.peak_lr = 0.09
    assert load_checkpoint(save(tmp_path, made).path).trainer.peak_lr == 0.09
    assert [path.name for path in tmp_path.iterdir()] == ["step_2"]


def test_what_an_interrupted_save_left_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".step_2.draft").mkdir()
    (tmp_path / ".step_2.draft" / "sae.safetensors").write_text("half")
    assert checkpoints_in(tmp_path) == []
    save(tmp_path, trained())
    assert [path.name for path in tmp_path.iterdir()] == ["step_2"]


def test_newest_means_the_highest_step_as_a_number(tmp_path: Path) -> None:
    for step in (900, 1000, 90):
        (tmp_path / f"step_{step}").mkdir()
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step_90", "step_900", "step_1000"]


def test_retention_deletes_all_but_the_newest(tmp_path: Path) -> None:
    for step in (900, 1000, 90):
        (tmp_path / f"step_{step}").mkdir()
    assert retain_newest(tmp_path, keep=2) == ["step_90"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_1000", "step_900"]


def test_no_checkpoint_is_told_from_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "step_1")
