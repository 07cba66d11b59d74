"""Checkpoints: whole or absent, verified when read."""

import errno
import itertools
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from worker_image.sae.checkpoint import (
    CheckpointCorrupt,
    CheckpointOutdated,
    CheckpointState,
    Kept,
    SaeState,
    checkpoints_in,
    clear_leftovers,
    delete_checkpoint,
    kept_in,
    load_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from worker_image.sae.random_state import restore_random_state

FILES = ["sae_0.safetensors", "training_0.safetensors", "random.safetensors", "state.json", "manifest.json"]


def sae(value: float) -> SaeState:
    return SaeState(
        {"W_dec": torch.full((3, 2), value), "threshold": torch.tensor(float("nan"))},
        {"optimizer.W_dec.exp_avg": torch.full((3, 2), -value), "tokens_since_fired": torch.arange(3)},
        {"peak_lr": value / 3, "coefficients": {"l1": value}},
    )


def state(step: int = 2, value: float = 1.0, saes: int = 1, **fields: object) -> CheckpointState:
    return CheckpointState(step, tuple(sae(value + nth) for nth in range(saes)), **fields)  # type: ignore[arg-type]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), other[name].reshape(-1).view(torch.uint8)), name


@pytest.mark.parametrize("saes", [1, 3])
def test_everything_written_comes_back(tmp_path: Path, saes: int) -> None:
    wanted = state(saes=saes, loss=0.1, held_out_loss=1 / 3, run={"position": 7}, params={"k": 2})
    loaded = load_checkpoint(save_checkpoint(tmp_path, wanted).path)
    assert len(loaded.saes) == saes
    for found, one in zip(loaded.saes, wanted.saes, strict=True):
        assert_same(found.weights, one.weights)
        assert_same(found.training, one.training)
        assert found.values == one.values
    for name in ("step", "loss", "held_out_loss", "run", "params", "kind"):
        assert getattr(loaded, name) == getattr(wanted, name)


def test_the_random_generators_are_those_of_the_moment_the_state_was_taken(tmp_path: Path) -> None:
    taken = state()
    wanted = (torch.rand(1).item(), random.random())
    loaded = load_checkpoint(save_checkpoint(tmp_path, taken).path)
    restore_random_state(loaded.random.tensors, loaded.random.values)
    assert (torch.rand(1).item(), random.random()) == wanted


def test_the_size_and_digest_are_those_of_the_files(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, state())
    assert saved.path.name == "step_2"
    assert saved.size_bytes == sum(file.stat().st_size for file in saved.path.iterdir())
    assert saved.digest == json.loads((saved.path / "manifest.json").read_text())["digest"]


def test_it_holds_safetensors_and_json_only(tmp_path: Path) -> None:
    assert {file.name for file in save_checkpoint(tmp_path, state()).path.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_noticed(tmp_path: Path, name: str) -> None:
    path = save_checkpoint(tmp_path, state()).path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointCorrupt):
        load_checkpoint(path.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(tmp_path: Path, name: str) -> None:
    path = save_checkpoint(tmp_path, state()).path / name
    path.unlink()
    with pytest.raises(CheckpointCorrupt):
        verify_checkpoint(path.parent)


def test_a_truncated_file_is_noticed(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state()).path / "training_0.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointCorrupt, match=r"training_0\.safetensors"):
        load_checkpoint(path.parent)


def test_a_checkpoint_of_the_first_format_is_told_from_a_broken_one(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state()).path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["format"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointOutdated, match="has format 1; this version reads format 2"):
        load_checkpoint(path.parent)


def test_no_checkpoint_is_told_from_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "step_1")


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    first = save_checkpoint(tmp_path, state(value=1.0))
    second = save_checkpoint(tmp_path, state(value=5.0))
    assert first.path == second.path
    assert first.digest != second.digest
    assert load_checkpoint(second.path).saes[0].values["peak_lr"] == 5 / 3
    assert [path.name for path in tmp_path.iterdir()] == ["step_2"]


def test_a_step_is_replaced_where_names_cannot_be_swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(one: Path, other: Path) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("worker_image.sae.checkpoint.exchange", refuse)
    save_checkpoint(tmp_path, state(value=1.0))
    saved = save_checkpoint(tmp_path, state(value=5.0))
    assert load_checkpoint(saved.path).saes[0].values["peak_lr"] == 5 / 3
    assert [path.name for path in tmp_path.iterdir()] == ["step_2"]


_TOUCHES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "ctypes.dlsym"}
"""What the interpreter tells of before it does it: all that can change a directory, names swapped by ctypes too."""


def killed(at: int, work: Callable[[], object]) -> bool:
    """Do it in a process that is killed before it touches the file system for the ``at``-th time; False when it came
    to its end before that."""
    child = os.fork()
    if child == 0:
        passed = itertools.count()

        def die(event: str, _: object) -> None:
            if event in _TOUCHES and next(passed) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.parametrize("there_before", [False, True], ids=["new", "replacing"])
def test_killed_at_whatever_moment_a_save_leaves_the_old_or_the_new_one_whole(
    tmp_path: Path, there_before: bool
) -> None:
    seen = set()
    at = 0
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        if there_before:
            save_checkpoint(folder, state(value=1.0))
        was_killed = killed(at, partial(save_checkpoint, folder, state(value=5.0)))
        found = [load_checkpoint(path).saes[0].values["peak_lr"] for path in checkpoints_in(folder)]
        assert found in ([1 / 3], [5 / 3]) if there_before else found in ([], [5 / 3])
        seen.add(tuple(found))
        clear_leftovers(folder)
        assert all(path.name == "step_2" for path in folder.iterdir())
        if not was_killed:
            break
        at += 1
    assert at >= 8
    assert len(seen) == 2


def test_killed_at_whatever_moment_a_deletion_leaves_a_whole_one_or_none(tmp_path: Path) -> None:
    at = 0
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        save_checkpoint(folder, state())
        was_killed = killed(at, partial(delete_checkpoint, folder / "step_2"))
        for path in checkpoints_in(folder):
            verify_checkpoint(path)
        if not was_killed:
            break
        at += 1
    assert at >= 3
    assert list(folder.iterdir()) == []


def test_what_an_interrupted_save_left_is_no_checkpoint_and_goes(tmp_path: Path) -> None:
    (tmp_path / ".step_2.draft").mkdir()
    (tmp_path / ".step_2.draft" / "sae_0.safetensors").write_text("half")
    assert checkpoints_in(tmp_path) == []
    save_checkpoint(tmp_path, state())
    assert [path.name for path in tmp_path.iterdir()] == ["step_2"]


def test_clearing_leftovers_spares_checkpoints(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state())
    for name in (".step_3.draft", ".step_1.retired"):
        (tmp_path / name / "deep").mkdir(parents=True)
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step_2"]


def test_the_oldest_comes_first_by_step_as_a_number(tmp_path: Path) -> None:
    for name in ("step_900", "step_1000", "step_90", "anomaly_7", "step_x"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step_90", "step_900", "step_1000"]


def test_an_anomaly_has_a_name_of_its_own(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, state(kind="anomaly"))
    assert saved.path.name == "anomaly_2"
    assert load_checkpoint(saved.path).kind == "anomaly"
    assert checkpoints_in(tmp_path) == []


def test_what_retention_chooses_from_is_read_from_the_folder(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(step=1, held_out_loss=0.5))
    save_checkpoint(tmp_path, state(step=2))
    save_checkpoint(tmp_path, state(step=2, kind="anomaly"))
    (tmp_path / ".step_3.draft").mkdir()
    assert sorted(kept_in(tmp_path), key=lambda one: one.name) == [
        Kept("anomaly_2", 2, None, True),
        Kept("step_1", 1, 0.5),
        Kept("step_2", 2),
    ]


def test_a_deleted_checkpoint_is_gone(tmp_path: Path) -> None:
    delete_checkpoint(save_checkpoint(tmp_path, state()).path)
    assert list(tmp_path.iterdir()) == []
