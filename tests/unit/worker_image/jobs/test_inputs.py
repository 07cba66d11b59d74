"""Where a training computes. No GPU is needed: torch's answers about one are given here."""

from types import SimpleNamespace

import pytest
import torch

from worker_image.jobs.train_sae import inputs
from worker_image.memory import MIB


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """A GPU of 1000 MiB; what share of which one the process was told to keep to."""
    told: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=1000 * MIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, index: told.append((share, index)))
    return told


def test_a_job_keeps_to_its_part_of_a_shared_gpu(shares: list[tuple[float, int]]) -> None:
    assert inputs._device("auto", 250) == torch.device("cuda:0")
    assert shares == [(0.25, 0)]


def test_a_job_with_a_gpu_of_its_own_takes_what_it_needs(shares: list[tuple[float, int]]) -> None:
    assert inputs._device("auto", None) == torch.device("cuda:0")
    assert shares == []


def test_no_job_is_promised_more_than_the_gpu_has(shares: list[tuple[float, int]]) -> None:
    inputs._device("cuda", 4000)
    assert shares == [(1.0, 0)]
