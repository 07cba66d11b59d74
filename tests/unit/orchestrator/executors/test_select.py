"""Which executor runs the jobs."""

import socket
from collections.abc import Collection
from pathlib import Path

import pytest

from orchestrator.errors import EngineUnavailable
from orchestrator.executors.base import Executor
from orchestrator.executors.select import all_executors, select_executor
from orchestrator.settings import Settings


@pytest.fixture(autouse=True)
def no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")


async def selected(settings: Settings, used: Collection[str] = ()) -> Executor:
    return await select_executor(settings, all_executors(settings), used=used)


async def test_without_an_engine_auto_takes_plain_processes_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    executor = await selected(Settings(home=tmp_path, executor="auto"))
    assert executor.name == "process"
    assert len(caplog.records) == 1
    assert "without isolation" in caplog.text


async def test_an_engine_that_is_installed_and_down_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "no-engine.sock"))
    executor = await selected(Settings(home=tmp_path, executor="auto"))
    assert executor.name == "docker"
    assert "jobs wait for it" in caplog.text
    await executor.close()


async def test_an_engine_that_has_run_jobs_of_this_home_is_waited_for(tmp_path: Path) -> None:
    executor = await selected(Settings(home=tmp_path, executor="auto"), used={"docker": 3, "process": 1})
    assert executor.name == "docker"
    await executor.close()


async def test_an_engine_elsewhere_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    executor = await selected(Settings(home=tmp_path, executor="auto"))
    assert executor.name == "docker"
    await executor.close()


async def test_docker_by_name_is_taken_even_while_its_engine_is_down(tmp_path: Path) -> None:
    executor = await selected(Settings(home=tmp_path, executor="docker"))
    assert executor.name == "docker"
    with pytest.raises(EngineUnavailable, match="does not answer") as caught:
        await executor.check()
    assert caught.value.suggestion
    await executor.close()


async def test_processes_by_name_ask_no_engine(tmp_path: Path) -> None:
    assert (await selected(Settings(home=tmp_path, executor="process"))).name == "process"


def test_an_attempt_begun_under_any_setting_finds_its_executor(tmp_path: Path) -> None:
    assert all_executors(Settings(home=tmp_path, executor="process")).keys() == {"docker", "process"}
