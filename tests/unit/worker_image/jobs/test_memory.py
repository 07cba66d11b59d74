"""Whether a training fits what is left of memory."""

from types import SimpleNamespace

import pytest
import torch

from worker_image.contract.jobs import TrainSaeParams
from worker_image.errors import OutOfGpuMemory, UserError
from worker_image.jobs.train_sae import memory
from worker_image.jobs.train_sae.memory import Need
from worker_image.memory import MIB

CONFIG = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 10}
COLUMNS = {"layers.0": slice(0, 64)}


def need(device: str = "cpu", buffered: int = 0, **values: object) -> Need:
    params = TrainSaeParams.model_validate({"model": "m", "dataset": "d"} | values)
    return Need.of(params, CONFIG, COLUMNS, torch.device(device), buffered)


def left(monkeypatch: pytest.MonkeyPatch, mib: int) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: mib * MIB)


def test_what_fits_is_not_complained_about(monkeypatch: pytest.MonkeyPatch) -> None:
    left(monkeypatch, 1000)
    need(buffered=100_000).check(None)


def test_what_does_not_fit_is_told_by_component_with_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    left(monkeypatch, 60)
    with pytest.raises(
        UserError, match=r"of memory are needed and 60 MiB are left: activation buffer 98 MiB, "
    ) as told:
        need(buffered=400_000, buffer_tokens=400_000).check(None)
    assert told.value.field == "buffer_tokens"
    assert "buffer_tokens 65536 (saves " in (told.value.suggestion or "")
    assert "resources.memory_mb" in (told.value.suggestion or "")


def test_what_memory_just_holds_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = need(buffered=100_000)
    required = sum(part.size_bytes for part in asked.remaining("host"))
    monkeypatch.setattr(memory, "available_bytes", lambda: required)
    asked.check(None)
    monkeypatch.setattr(memory, "available_bytes", lambda: required - 1)
    with pytest.raises(UserError):
        asked.check(None)


def test_a_dataset_smaller_than_the_buffer_takes_less(monkeypatch: pytest.MonkeyPatch) -> None:
    left(monkeypatch, 60)
    need(buffered=1000, buffer_tokens=400_000).check(None)


def test_a_machine_that_does_not_tell_its_memory_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    need(buffered=10**9).check(None)


def test_a_share_of_a_gpu_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    left(monkeypatch, 10_000)
    pretended = SimpleNamespace(
        memory_allocated=lambda: 100 * MIB,
        memory_reserved=lambda: 150 * MIB,
        mem_get_info=lambda: (800 * MIB, 1000 * MIB),
    )
    monkeypatch.setattr(memory.torch, "cuda", pretended)
    asked = need("cuda", expansion_factor=64, batch_size=512)
    asked.check(None)
    with pytest.raises(OutOfGpuMemory, match="of GPU memory are needed and 10 MiB are left"):
        asked.check(110)


def test_the_table_tells_all_of_it() -> None:
    assert need("cuda").table("gpu").startswith("CUDA context 600 MiB, ")
