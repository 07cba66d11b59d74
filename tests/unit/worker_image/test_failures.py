"""The task boundary: every exception becomes a failure a person can act on."""

import errno
import signal
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
import torch

from worker_image import run as worker
from worker_image.contract.evaluate_sae import EvaluateSaeParams
from worker_image.contract.events import Failure, event
from worker_image.contract.jobs import JobParams, TrainSaeParams
from worker_image.contract.rundir import RunDir, RunSpec
from worker_image.contract.sae_features import SaeFeaturesParams
from worker_image.errors import OutOfGpuMemory, UserError


@pytest.fixture
def run_dir(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = RunDir(tmp_path / "run")
    params = TrainSaeParams(model="m", dataset="d")
    made.create(RunSpec(job_id=uuid4(), attempt=1, name="test", params=params))
    before = signal.getsignal(signal.SIGTERM)
    yield made
    signal.signal(signal.SIGTERM, before)


def end_of(run_dir: RunDir, error: Exception, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Failure]:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(worker.importlib, "import_module", lambda name: SimpleNamespace(main=fail))
    for name in (
        "OMP_WAIT_POLICY",
        "HF_HUB_OFFLINE",
        "HF_HUB_DISABLE_TELEMETRY",
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "TRANSFORMERS_VERBOSITY",
    ):
        monkeypatch.setenv(name, "1")  # so that what main sets is undone
    code = worker.main([str(run_dir.path)])
    [finished] = [event.validate_json(line) for line in run_dir.events.read_bytes().splitlines()]
    assert finished.outcome == "failed"
    return code, finished.failure


def test_a_user_error_keeps_its_words(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    code, failure = end_of(run_dir, UserError("k", "too many", "lower it"), monkeypatch)
    assert code == 2
    assert failure == Failure(code="user_error", message="too many", field="k", suggestion="lower it")


def test_running_out_of_gpu_memory_names_what_to_lower(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    code, failure = end_of(run_dir, OutOfGpuMemory("batch_size", "does not fit", "lower it"), monkeypatch)
    assert code == 1
    assert (failure.code, failure.field) == ("cuda_oom", "batch_size")


def test_any_other_exception_is_internal_and_its_traceback_is_logged(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, failure = end_of(run_dir, ZeroDivisionError("oops"), monkeypatch)
    assert code == 1
    assert (failure.code, failure.message) == ("internal_error", "ZeroDivisionError: oops")
    assert "Traceback" in capsys.readouterr().out


def test_a_full_disk_is_called_one(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    _, failure = end_of(run_dir, OSError(errno.ENOSPC, "No space left on device"), monkeypatch)
    assert "disk is full" in failure.message


@pytest.mark.parametrize(
    ("params", "field"),
    [
        (TrainSaeParams(model="m", dataset="d"), "batch_size"),
        (EvaluateSaeParams(sae="s", model="m", dataset="d"), "harvest_batch_size"),
        (SaeFeaturesParams(sae="s", model="m", dataset="d"), "harvest_batch_size"),
    ],
    ids=["train_sae", "evaluate_sae", "sae_features"],
)
def test_wherever_gpu_memory_runs_out_a_parameter_is_named(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, params: JobParams, field: str
) -> None:
    run_dir.params.unlink()
    run_dir.create(RunSpec(job_id=uuid4(), attempt=1, name="test", params=params))
    code, failure = end_of(run_dir, torch.cuda.OutOfMemoryError("tried to allocate 2 GiB"), monkeypatch)
    assert code == 1
    assert (failure.code, failure.field) == ("cuda_oom", field)
    assert f"lower {field}" in (failure.suggestion or "")
