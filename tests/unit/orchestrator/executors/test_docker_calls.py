"""The Docker executor against an engine that answers by a script, on a real socket."""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from orchestrator.errors import EngineUnavailable, ImageMissing
from orchestrator.executors import docker as docker_executor
from orchestrator.executors import engine as engine_seam
from orchestrator.executors.base import Owned
from orchestrator.executors.container_request import ATTEMPT_LABEL, JOB_LABEL
from orchestrator.executors.docker import DockerExecutor
from orchestrator.executors.home_id import home_id

CALL_TIMEOUT_S = 0.5


class ScriptedEngine:
    """Has no image and no container; a pull says nothing until ``silence_s`` went by or ``released``."""

    def __init__(self) -> None:
        self.silence_s = 30.0
        self.released = threading.Event()
        self.hangs = False
        self.asked: list[str] = []
        self.state: dict[str, object] | None = None
        """Of the one container it has, if it has one."""
        self.events: list[dict[str, str]] = []
        self.silent_events = False
        self.containers: list[dict[str, object]] = []
        """What a list of all shows."""

    def answer(self, path: str) -> tuple[int, object]:
        self.asked.append(path)
        if self.hangs:
            self.released.wait(self.silence_s)
        if path.startswith("/version"):
            return 200, {"ApiVersion": "1.41", "Version": "20.10"}
        if "/images/create" in path:
            self.released.wait(self.silence_s)
            return 200, {"status": "pulled"}
        if "/events" in path:
            if self.silent_events:
                self.released.wait(self.silence_s)
            return 200, (self.events[0] if self.events else None)
        if path.endswith("/json") and self.state is not None:
            return 200, {"Id": "c" * 64, "State": self.state, "HostConfig": {}, "Config": {"Labels": {}}}
        return (200, self.containers) if "/containers/json" in path else (404, {"message": "no such thing"})


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedEngine]:
    script = ScriptedEngine()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = script.answer(self.path)
            content = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """The caller did not wait for the answer."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(engine_seam, "CALL_TIMEOUT_S", CALL_TIMEOUT_S)
    yield script
    script.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def executor(engine: ScriptedEngine, tmp_path: Path) -> AsyncIterator[DockerExecutor]:
    made = DockerExecutor(tmp_path)
    yield made
    await made.close()


async def test_a_registry_that_is_silent_for_longer_than_a_call_is_waited_for(
    engine: ScriptedEngine, executor: DockerExecutor
) -> None:
    engine.silence_s = 3 * CALL_TIMEOUT_S
    await executor.prepare("far/away:latest")


async def test_a_pull_that_takes_too_long_is_a_missing_image_with_advice(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    impatient = DockerExecutor(tmp_path, pull_timeout_s=0.1)
    with pytest.raises(ImageMissing, match=r"took more than 0\.1 s") as caught:
        await impatient.prepare("far/away:latest")
    await impatient.close()
    assert "docker pull far/away:latest" in (caught.value.suggestion or "")
    assert "SAEFORGE_PULL_TIMEOUT_S" in (caught.value.suggestion or "")


async def test_a_pull_tells_what_it_does(engine: ScriptedEngine, executor: DockerExecutor) -> None:
    engine.silence_s = 0
    heard: list[str] = []
    await executor.prepare("far/away:latest", heard.append)
    assert heard[0] == "pulling image far/away:latest"


async def test_a_container_with_labels_that_somebody_made_up_is_left_alone(
    engine: ScriptedEngine, executor: DockerExecutor
) -> None:
    job_id = uuid4()
    good = {JOB_LABEL: str(job_id), ATTEMPT_LABEL: "2"}
    labelled = {"a": {}, "b": good | {JOB_LABEL: "mine"}, "c": good | {ATTEMPT_LABEL: ""}, "d": good}
    engine.containers = [{"Id": name * 64, "Labels": labels} for name, labels in labelled.items()]
    assert await executor.list_owned() == [Owned(job_id, 2, "d" * 64)]


async def test_an_engine_that_hangs_is_unavailable(engine: ScriptedEngine, executor: DockerExecutor) -> None:
    engine.hangs = True
    with pytest.raises(EngineUnavailable):
        await executor.prepare("far/away:latest")


async def test_the_homes_id_is_read_once_and_off_the_event_loop(
    engine: ScriptedEngine, executor: DockerExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[threading.Thread] = []

    def noted(home: Path) -> str:
        readers.append(threading.current_thread())
        return home_id(home)

    monkeypatch.setattr(docker_executor, "home_id", noted)
    await executor.list_owned()
    await executor.list_owned()
    assert len(readers) == 1
    assert readers[0] is not threading.current_thread()


KILLED = {"Status": "exited", "ExitCode": 137, "OOMKilled": False, "Error": ""}


async def test_want_of_memory_that_the_engine_noticed_too_late_for_its_flag_is_seen(
    executor: DockerExecutor, engine: ScriptedEngine
) -> None:
    engine.state, engine.events = KILLED, [{"Action": "oom"}]
    seen = await executor.inspect("c" * 64)
    assert (seen.exit_code, seen.oom_killed) == (137, True)


async def test_an_engine_that_does_not_say_what_happened_holds_nothing_up(
    executor: DockerExecutor, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_executor, "CHECK_TIMEOUT_S", 0.2)
    engine.state, engine.silent_events = KILLED, True
    seen = await executor.inspect("c" * 64)
    assert (seen.exit_code, seen.oom_killed) == (137, False)


async def test_other_ends_are_not_asked_about(executor: DockerExecutor, engine: ScriptedEngine) -> None:
    engine.state = KILLED | {"ExitCode": 1}
    assert not (await executor.inspect("c" * 64)).oom_killed
    assert not any("/events" in path for path in engine.asked)
