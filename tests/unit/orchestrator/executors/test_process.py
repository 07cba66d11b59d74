"""What the process executor decides without starting anything, and what its shim leaves behind."""

import asyncio
import json
import os
import pickle
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from orchestrator.errors import LaunchFailed
from orchestrator.executors import process_shim
from orchestrator.executors.base import LaunchSpec, RunState
from orchestrator.executors.process import FOLDER, ProcessExecutor, process_argv, process_env
from tests.contract.benches import ProcessBench, eventually
from tests.contract.programs import OBEDIENT, SPEAK, Program, never

SPEC = LaunchSpec(
    job_id=uuid4(),
    attempt=1,
    name="saeforge-test-1",
    image="saeforge-worker:latest",
    argv=("python", "-m", "worker_image.run", "/runs/x/1"),
    run_dir=Path("/runs/x/1"),
)


def test_our_worker_runs_on_the_orchestrators_own_interpreter() -> None:
    assert process_argv(SPEC)[-4:] == [sys.executable, "-m", "worker_image.run", "/runs/x/1"]


def test_an_image_of_its_own_is_refused_with_a_remedy() -> None:
    with pytest.raises(LaunchFailed, match="needs a container engine") as caught:
        process_argv(replace(SPEC, builtin=False, image="alpine"))
    assert caught.value.field == "image"
    assert "Docker" in (caught.value.suggestion or "")


def test_the_orchestrators_key_and_settings_stay_with_it() -> None:
    env = process_env(SPEC, {"SAEFORGE_API_KEY": "s", "GPU_ORCHESTRATOR_API_KEY": "s", "PATH": "/bin"})
    assert "s" not in env.values()
    assert env["PATH"] == "/bin"


def test_a_process_finds_its_secrets_where_they_were_laid_out() -> None:
    lent = Path("/dev/shm/saeforge/x/saeforge-1-1")
    env = process_env(replace(SPEC, secrets=lent, secret_names=("HF_TOKEN",)), {"SAEFORGE_JWT_SECRET": "ours"})
    assert env["SAEFORGE_SECRETS_DIR"] == str(lent)
    assert env["HF_TOKEN_PATH"] == str(lent / "HF_TOKEN")
    assert "SAEFORGE_JWT_SECRET" not in env


def test_only_the_leased_gpus_are_visible() -> None:
    assert process_env(SPEC, {"CUDA_VISIBLE_DEVICES": "0,1"})["CUDA_VISIBLE_DEVICES"] == ""
    assert process_env(replace(SPEC, gpus=("GPU-a", "GPU-b")), {})["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[ProcessBench]:
    made = ProcessBench(tmp_path)
    yield made
    await made.close()


async def test_what_a_program_leaves_running_dies_with_it(bench: ProcessBench) -> None:
    parent = Program("parent", "(setsid sleep 1000 & echo $! > $SAEFORGE_RUN_DIR/left); exit 0", never)
    spec, handle = await bench.launch(parent)
    await bench.until(handle, RunState.EXITED)
    left = int((spec.run_dir / "left").read_text())
    assert process_shim.start_ticks(left) is None


async def test_an_attempt_whose_shim_was_killed_has_ended_with_an_unknown_exit_code(bench: ProcessBench) -> None:
    spec, handle = await bench.launch(Program("id", "echo $$; exec sleep 1000", never))
    await bench.until_log(spec, b"\n")
    program = int((spec.run_dir / "log").read_text())
    shim = json.loads((spec.run_dir / FOLDER / process_shim.STARTED).read_text())["pid"]
    os.kill(shim, signal.SIGKILL)
    seen = await bench.until(handle, RunState.EXITED)
    assert seen.exit_code is None
    assert "no exit code" in (seen.error or "")
    await eventually(lambda: process_shim.start_ticks(program) is None, "the program follows its shim")


async def test_a_later_process_with_the_same_pid_is_not_taken_for_the_attempt(bench: ProcessBench) -> None:
    spec, handle = await bench.launch(SPEAK)
    await bench.until(handle, RunState.EXITED)
    (spec.run_dir / FOLDER / process_shim.EXIT).unlink()
    ours = {"pid": os.getpid(), "start_ticks": 1, "boot_id": process_shim.boot_id()}
    (spec.run_dir / FOLDER / process_shim.STARTED).write_text(json.dumps(ours))
    assert (await bench.executor.inspect(handle)).state is RunState.EXITED
    await bench.executor.stop(handle, 0)


async def test_an_attempt_from_before_a_restart_of_the_machine_has_ended(bench: ProcessBench) -> None:
    spec, handle = await bench.launch(OBEDIENT)
    await bench.until_log(spec, b"ready")
    record = spec.run_dir / FOLDER / process_shim.STARTED
    told = json.loads(record.read_text())
    record.write_text(json.dumps(told | {"boot_id": "another boot"}))
    assert (await bench.executor.inspect(handle)).state is RunState.EXITED
    record.write_text(json.dumps(told))


async def test_a_copy_of_a_run_directory_is_not_taken_for_an_attempt(tmp_path: Path) -> None:
    for name in (f"{SPEC.job_id}/1", f"{SPEC.job_id}.bak/1", f"{SPEC.job_id}/old"):
        folder = tmp_path / "runs" / name / FOLDER
        folder.mkdir(parents=True)
        (folder / process_shim.STARTED).touch()
    assert [item.handle for item in await ProcessExecutor(tmp_path).list_owned()] == [f"{SPEC.job_id}/1"]


async def test_a_handle_that_is_no_handle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"UUID|hexadecimal"):
        await ProcessExecutor(tmp_path).inspect("../../etc/1")


async def test_an_attempt_outlives_the_process_that_launched_it(bench: ProcessBench) -> None:
    spec = bench.spec(OBEDIENT)
    launching = f"""
import asyncio, pickle
from pathlib import Path
from orchestrator.executors.process import ProcessExecutor
spec = pickle.loads({pickle.dumps(spec)!r})
print(asyncio.run(ProcessExecutor(Path({str(bench.home)!r})).launch(spec)))
"""
    orchestrator = await asyncio.create_subprocess_exec(sys.executable, "-c", launching, stdout=asyncio.subprocess.PIPE)
    told, _ = await orchestrator.communicate()
    handle = told.decode().strip()
    await bench.until_log(spec, b"ready")
    assert (await bench.executor.inspect(handle)).state is RunState.RUNNING
    await bench.executor.stop(handle, 30)
    assert (await bench.executor.inspect(handle)).exit_code == 5
