"""What Docker adds to the contract: isolation seen from inside, and failures told apart."""

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from orchestrator.errors import ImageMissing, LaunchFailed
from orchestrator.executors.base import LaunchSpec, RunState
from orchestrator.executors.docker import DockerExecutor
from tests.contract.benches import DockerBench, eventually
from tests.contract.programs import OBEDIENT, SPEAK, SPOKEN, Program, never
from worker_image.contract.launch import UNWRITABLE_EXIT_CODE
from worker_image.contract.rundir import RunDir

pytestmark = pytest.mark.docker


def shell(script: str) -> Program:
    return Program("script", script, never)


LOOK_AROUND = shell(
    r"""
uid=$(id -u); gid=$(id -g)
status() { sed -n "s/^$1:[[:space:]]*//p" /proc/self/status; }
if touch /outside 2>/dev/null; then root=writable; else root=read-only; fi
if touch /tmp/inside 2>/dev/null; then tmp=writable; else tmp=read-only; fi
if touch "$SAEFORGE_RUN_DIR/artifacts/inside" 2>/dev/null; then run=writable; else run=read-only; fi
printf '{"uid": %s, "gid": %s, "caps": "%s", "bounding": "%s", "no_new_privs": "%s", "seccomp": "%s",' \
  "$uid" "$gid" "$(status CapEff)" "$(status CapBnd)" "$(status NoNewPrivs)" "$(status Seccomp)"
printf ' "root": "%s", "tmp": "%s", "run": "%s", "interfaces": "%s", "init": "%s", "home": "%s"}' \
  "$root" "$tmp" "$run" "$(ls /sys/class/net | tr '\n' ' ')" "$(cat /proc/1/comm)" "$HOME"
"""
)
NO_CAPABILITIES = "0" * 16


async def log_of(bench: DockerBench, spec: LaunchSpec) -> str:
    """Run the attempt to its end and return its log."""
    handle = await bench.executor.launch(spec)
    await bench.until(handle, RunState.EXITED)
    return RunDir(spec.run_dir).log.read_text()


@pytest.fixture
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


async def test_a_job_sees_a_sealed_container(docker_bench: DockerBench) -> None:
    seen = json.loads(await log_of(docker_bench, docker_bench.spec(LOOK_AROUND)))
    expected_uid = os.getuid() or 10001
    assert seen == {
        "uid": expected_uid,
        "gid": os.getgid() if os.getuid() else 10001,
        "caps": NO_CAPABILITIES,
        "bounding": NO_CAPABILITIES,
        "no_new_privs": "1",
        "seccomp": "2",
        "root": "read-only",
        "tmp": "writable",
        "run": "writable",
        "interfaces": "lo ",
        "init": "docker-init",
        "home": "/tmp",
    }


async def test_a_job_that_asks_for_the_network_has_an_interface(docker_bench: DockerBench) -> None:
    spec = replace(docker_bench.spec(shell("ls /sys/class/net")), network=True)
    assert set((await log_of(docker_bench, spec)).split()) > {"lo"}


async def test_inputs_are_mounted_read_only_at_their_own_paths(docker_bench: DockerBench, tmp_path: Path) -> None:
    data = tmp_path / "datasets" / "corpus.txt"
    data.parent.mkdir()
    data.write_text("hello\n")
    spec = docker_bench.spec(shell(f"cat {data}; echo x >> {data} || echo refused"))
    log = await log_of(docker_bench, replace(spec, read_only=(data,)))
    assert log.startswith("hello\n")
    assert log.endswith("refused\n")
    assert data.read_text() == "hello\n"


async def test_what_jobs_share_is_writable_for_each(docker_bench: DockerBench, tmp_path: Path) -> None:
    shared = tmp_path / "cache"
    shared.mkdir()
    spec = docker_bench.spec(shell(f"echo kept > {shared}/file && cat {shared}/file"))
    assert await log_of(docker_bench, replace(spec, read_write=(shared,))) == "kept\n"
    assert (shared / "file").read_text() == "kept\n"


async def test_limits_are_what_was_asked_for(docker_bench: DockerBench, engine: docker.DockerClient) -> None:
    spec = replace(docker_bench.spec(OBEDIENT), memory_mb=128, cpus=0.5, pids=64, shm_mb=32)
    handle = await docker_bench.executor.launch(spec)
    told = (await asyncio.to_thread(engine.containers.get, handle)).attrs["HostConfig"]
    assert {key: told[key] for key in ("Memory", "MemorySwap", "NanoCpus", "PidsLimit", "ShmSize")} == {
        "Memory": 128 * 2**20,
        "MemorySwap": 128 * 2**20,
        "NanoCpus": 500_000_000,
        "PidsLimit": 64,
        "ShmSize": 32 * 2**20,
    }


async def test_a_job_that_exceeds_its_memory_is_seen_as_out_of_memory(docker_bench: DockerBench) -> None:
    hog = shell("exec python3 -c 'hoard = bytearray(512 * 2**20)'")
    handle = await docker_bench.executor.launch(replace(docker_bench.spec(hog), memory_mb=64))
    seen = await docker_bench.until(handle, RunState.EXITED)
    assert (seen.exit_code, seen.oom_killed) == (137, True)


async def test_the_engines_own_log_shows_a_copy(docker_bench: DockerBench, engine: docker.DockerClient) -> None:
    _, handle = await docker_bench.launch(OBEDIENT)
    await eventually(lambda: b"ready" in engine.containers.get(handle).logs(), "the copy in the engine's log")


async def test_a_missing_image_is_named_with_a_remedy(docker_bench: DockerBench) -> None:
    spec = replace(docker_bench.spec(SPEAK), image="saeforge-no-such-image:latest")
    with pytest.raises(ImageMissing, match="saeforge-no-such-image") as caught:
        await docker_bench.executor.launch(spec)
    assert (caught.value.field, bool(caught.value.suggestion)) == ("image", True)
    with pytest.raises(ImageMissing, match="saeforge-no-such-image"):
        await docker_bench.executor.prepare("localhost:1/saeforge-no-such-image:latest")


async def test_our_own_image_is_never_looked_for_in_a_registry(docker_bench: DockerBench) -> None:
    executor = DockerExecutor(docker_bench.home, worker_image="saeforge-not-built:latest")
    with pytest.raises(ImageMissing) as caught:
        await executor.prepare("saeforge-not-built:latest")
    await executor.close()
    assert caught.value.suggestion == "build it with: make image"


async def test_an_image_that_is_here_is_ready_at_once(docker_bench: DockerBench) -> None:
    await docker_bench.executor.prepare(docker_bench.image)


async def test_a_program_that_the_image_lacks_ends_with_127_and_says_so_in_the_log(docker_bench: DockerBench) -> None:
    spec = replace(docker_bench.spec(SPEAK), argv=("no-such-program",))
    handle = await docker_bench.executor.launch(spec)
    assert (await docker_bench.until(handle, RunState.EXITED)).exit_code == 127
    assert b"no-such-program" in RunDir(spec.run_dir).log.read_bytes()


async def test_an_image_without_a_shell_is_told_apart(docker_bench: DockerBench, engine: docker.DockerClient) -> None:
    tag = "saeforge-test-empty:latest"
    await asyncio.to_thread(engine.api.import_image_from_data, _EMPTY_TAR, repository="saeforge-test-empty")
    try:
        handle = await docker_bench.executor.launch(replace(docker_bench.spec(SPEAK), image=tag))
        seen = await docker_bench.until(handle, RunState.EXITED)
        assert seen.exit_code == 127
        assert seen.error is not None
        assert "no shell in the image" in seen.error
        await docker_bench.executor.remove(handle)
    finally:
        await asyncio.to_thread(engine.images.remove, tag)


async def test_a_missing_input_is_the_engines_refusal_with_advice(docker_bench: DockerBench, tmp_path: Path) -> None:
    spec = replace(docker_bench.spec(SPEAK), read_only=(tmp_path / "gone",))
    with pytest.raises(LaunchFailed, match="gone") as caught:
        await docker_bench.executor.launch(spec)
    assert "still exists" in (caught.value.suggestion or "")
    assert await docker_bench.executor.list_owned() == []


async def test_a_gpu_on_an_engine_without_nvidias_toolkit_is_refused_with_advice(docker_bench: DockerBench) -> None:
    spec = replace(docker_bench.spec(SPEAK), gpus=("GPU-00000000-0000-0000-0000-000000000000",))
    with pytest.raises(LaunchFailed) as caught:
        await docker_bench.executor.launch(spec)
    assert caught.value.suggestion
    assert await docker_bench.executor.list_owned() == []


async def test_a_run_directory_that_the_containers_user_may_not_write_is_told_apart(
    docker_bench: DockerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = docker_bench.spec(SPEAK)
    executor = DockerExecutor(docker_bench.home, user="12345:12345")
    monkeypatch.setattr("orchestrator.executors.docker._give", lambda *_: None)
    seen = await docker_bench.until(await executor.launch(spec), RunState.EXITED)
    await executor.close()
    assert seen.exit_code == UNWRITABLE_EXIT_CODE
    assert "may not write" in (seen.error or "")


async def test_a_container_that_was_paused_by_hand_still_runs_and_can_be_stopped(
    docker_bench: DockerBench, engine: docker.DockerClient
) -> None:
    spec, handle = await docker_bench.launch(OBEDIENT)
    await docker_bench.until_log(spec, b"ready")
    await asyncio.to_thread(engine.api.pause, handle)
    assert (await docker_bench.executor.inspect(handle)).state is RunState.RUNNING
    await docker_bench.executor.stop(handle, 0.2)
    assert (await docker_bench.executor.inspect(handle)).state is RunState.EXITED


async def test_a_home_in_the_users_own_directory_can_be_reached_from_inside(engine_image: str) -> None:
    with tempfile.TemporaryDirectory(dir=Path.home(), prefix=".saeforge-test-") as home:
        bench = DockerBench(Path(home), engine_image)
        try:
            spec, handle = await bench.launch(SPEAK)
            await bench.until(handle, RunState.EXITED)
            assert RunDir(spec.run_dir).log.read_bytes() == SPOKEN
        finally:
            await bench.close()


async def test_another_homes_attempts_are_neither_listed_nor_adopted(docker_bench: DockerBench, tmp_path: Path) -> None:
    spec, _ = await docker_bench.launch(OBEDIENT)
    stranger = DockerExecutor(tmp_path / "another-home")
    try:
        assert await stranger.list_owned() == []
        with pytest.raises(LaunchFailed, match="belongs to another saeforge home"):
            await stranger.launch(spec)
    finally:
        await stranger.close()


_EMPTY_TAR = bytes(10240)
"""An archive without any file: an image without a shell."""


async def test_a_container_is_adopted_although_its_image_was_removed_since(
    docker_bench: DockerBench, engine: docker.DockerClient
) -> None:
    spec = docker_bench.spec(OBEDIENT)
    passing = f"saeforge-passing:{spec.attempt}"
    await asyncio.to_thread(engine.images.get(spec.image).tag, passing)
    spec = replace(spec, image=passing)
    handle = await docker_bench.executor.launch(spec)
    await asyncio.to_thread(engine.images.remove, passing)
    assert await docker_bench.executor.launch(spec) == handle


async def test_an_image_that_was_there_is_looked_for_again_once_a_launch_found_it_gone(
    docker_bench: DockerBench, engine: docker.DockerClient
) -> None:
    spec = docker_bench.spec(OBEDIENT)
    passing = "saeforge-passing/gone:latest"
    await asyncio.to_thread(engine.images.get(spec.image).tag, passing)
    await docker_bench.executor.prepare(passing)
    await asyncio.to_thread(engine.images.remove, passing)
    with pytest.raises(ImageMissing):
        await docker_bench.executor.launch(replace(spec, image=passing))
    with pytest.raises(ImageMissing):
        await docker_bench.executor.prepare(passing)


async def test_the_engine_tells_by_itself_when_a_container_starts_or_ends(docker_bench: DockerBench) -> None:
    changes = docker_bench.executor.changes()
    assert await anext(changes, "listening") is None
    heard = asyncio.create_task(_next_of(changes))
    await docker_bench.launch(OBEDIENT)
    await asyncio.wait_for(heard, 30)
    ended = asyncio.create_task(_next_of(changes))
    for owned in await docker_bench.executor.list_owned():
        await docker_bench.executor.stop(owned.handle, 0)
    await asyncio.wait_for(ended, 30)
    await changes.aclose()


async def test_nobody_listens_to_the_engine_any_more_once_it_is_given_up(docker_bench: DockerBench) -> None:
    listening = asyncio.create_task(_next_of(docker_bench.executor.changes(), leave_out=1))
    await eventually(lambda: _listeners() > 0, "somebody listens")
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    await eventually(lambda: _listeners() == 0, "nobody listens")


def _listeners() -> int:
    return sum(thread.name == "docker" for thread in threading.enumerate())


async def _next_of(changes: AsyncGenerator[None], leave_out: int = 0) -> None:
    for _ in range(leave_out + 1):
        await anext(changes)
