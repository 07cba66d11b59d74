"""The checkpoint writer: what is written is the state at the moment it was asked for; failures are told."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from worker_image.sae import checkpoint_writer
from worker_image.sae.checkpoint import CheckpointState, SaeState, load_checkpoint, save_checkpoint
from worker_image.sae.checkpoint_writer import CheckpointWriter

DEADLINE_S = 60


def state(step: int, weights: torch.Tensor) -> CheckpointState:
    return CheckpointState(step, (SaeState({"W": weights}, {"moment": weights * 2}),))


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[CheckpointWriter]:
    made = CheckpointWriter(tmp_path)
    yield made
    made.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Writing waits until this is set."""
    opened = threading.Event()

    def write(folder: Path, given: CheckpointState) -> object:
        assert opened.wait(DEADLINE_S)
        return save_checkpoint(folder, given)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", write)
    yield opened
    opened.set()


def test_what_training_does_after_the_call_is_not_in_the_checkpoint(
    writer: CheckpointWriter, gate: threading.Event
) -> None:
    weights = torch.ones(3)
    writer.save(state(1, weights))
    weights.add_(1)
    gate.set()
    done = writer.wait()
    assert done is not None
    assert torch.equal(load_checkpoint(done[1].path).saes[0].weights["W"], torch.ones(3))


def test_nothing_is_told_before_it_is_on_disk(writer: CheckpointWriter, gate: threading.Event, tmp_path: Path) -> None:
    writer.save(state(1, torch.ones(3)), tag="mine")
    assert writer.poll() is None
    assert not (tmp_path / "step_1").exists()
    gate.set()
    done = writer.wait()
    assert done is not None
    tag, saved = done
    assert (tag, saved.path) == ("mine", tmp_path / "step_1")
    assert writer.poll() is None


def test_the_copies_of_one_save_serve_the_next(writer: CheckpointWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.ones(3)
    writer.reserve(state(0, weights))
    writer.save(state(1, weights))
    writer.wait()
    monkeypatch.delattr(torch, "zeros")
    writer.save(state(2, weights + 1))
    done = writer.wait()
    assert done is not None
    assert torch.equal(load_checkpoint(done[1].path).saes[0].training["moment"], torch.full((3,), 4.0))


def test_a_state_that_changed_its_shape_is_copied_all_the_same(writer: CheckpointWriter) -> None:
    writer.save(state(1, torch.ones(3)))
    writer.wait()
    writer.save(state(2, torch.ones(2, 2, dtype=torch.float64)))
    done = writer.wait()
    assert done is not None
    assert torch.equal(load_checkpoint(done[1].path).saes[0].weights["W"], torch.ones(2, 2, dtype=torch.float64))


def test_without_memory_for_a_copy_it_is_written_before_the_call_returns(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, spare_bytes=lambda: 23)
    writer.reserve(state(1, torch.ones(3)))
    writer.save(state(1, torch.ones(3)))
    assert (tmp_path / "step_1").is_dir()
    assert writer.poll() is not None
    writer.close()


def test_a_final_save_is_on_disk_when_it_returns(writer: CheckpointWriter, tmp_path: Path) -> None:
    writer.save_and_wait(state(1, torch.ones(3)), tag="final")
    assert (tmp_path / "step_1").is_dir()
    done = writer.poll()
    assert done is not None
    assert done[0] == "final"


@pytest.mark.parametrize("method", ["save", "save_and_wait"])
def test_an_error_while_writing_is_raised_where_the_result_is_asked_for(
    writer: CheckpointWriter, tmp_path: Path, method: str
) -> None:
    (tmp_path / ".step_1.draft").write_text("in the way")
    getattr(writer, method)(state(1, torch.ones(3)))
    with pytest.raises(FileExistsError):
        writer.wait()
    assert writer.wait() is None


def test_one_is_taken_over_before_the_next_is_begun(writer: CheckpointWriter) -> None:
    writer.save(state(1, torch.ones(3)))
    with pytest.raises(RuntimeError, match="not taken over"):
        writer.save(state(2, torch.ones(3)))


def test_deleting_goes_on_beside_training_and_its_error_is_told_later(writer: CheckpointWriter, tmp_path: Path) -> None:
    writer.save_and_wait(state(1, torch.ones(3)))
    writer.wait()
    writer.delete(tmp_path / "step_1")
    writer.delete(tmp_path / "step_7")
    with pytest.raises(FileNotFoundError):
        writer.save(state(2, torch.ones(3)))
    assert not (tmp_path / "step_1").exists()


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".step_1.draft").mkdir()
    CheckpointWriter(tmp_path).close()
    assert list(tmp_path.iterdir()) == []
