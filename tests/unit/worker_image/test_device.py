"""Where a training computes. No GPU is needed: torch's answers about one are given here."""

from types import SimpleNamespace

import pytest
import torch

from worker_image.device import choose_device
from worker_image.errors import GpuAbsent, OutOfGpuMemory, UserError
from worker_image.memory import MIB
from worker_image.run import failure_of


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """A GPU of 1000 MiB; what share of which one the process was told to keep to."""
    told: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=1000 * MIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, index: told.append((share, index)))
    return told


def test_a_job_keeps_to_its_part_of_a_shared_gpu(shares: list[tuple[float, int]]) -> None:
    assert choose_device("auto", 1, 250) == torch.device("cuda:0")
    assert shares == [(0.25, 0)]


def test_a_job_with_a_gpu_of_its_own_takes_what_it_needs(shares: list[tuple[float, int]]) -> None:
    assert choose_device("auto", 1, None) == torch.device("cuda:0")
    assert shares == []


def test_no_job_is_promised_more_than_the_gpu_has(shares: list[tuple[float, int]]) -> None:
    choose_device("cuda", 1, 4000)
    assert shares == [(1.0, 0)]


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_gpu_that_was_granted_and_cannot_be_used_is_told_and_not_held_for_nothing(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(GpuAbsent, match="2 GPU"):
        choose_device(wanted, 2, None)
    assert choose_device("cpu", 2, None) == torch.device("cpu")
    assert choose_device("auto", 0, None) == torch.device("cpu")


def test_it_is_told_apart_from_what_the_user_asked_for() -> None:
    assert failure_of(GpuAbsent("device", "none", "look")).code == "gpu_absent"
    assert failure_of(OutOfGpuMemory("batch_size", "full", "less")).code == "cuda_oom"
    assert failure_of(UserError("k", "no", "other")).code == "user_error"
