"""A real orchestrator on a real socket, over the fake engine."""

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvicorn

from orchestrator.api.state import State
from orchestrator.app import create_app
from orchestrator.client import Client
from orchestrator.domain import RetryPolicy
from orchestrator.executors.fake import FakeEngine, FakeExecutor, FakeRun
from orchestrator.settings import Settings
from tests.waiting import until
from worker_image.contract.events import Event
from worker_image.contract.rundir import RunDir

Result = TypeVar("Result")


@dataclass
class Orchestrator:
    """An orchestrator under test; its engine outlives it."""

    settings: Settings
    engine: FakeEngine
    client: Client
    key: str
    url: str
    state: State
    _server: uvicorn.Server
    _thread: threading.Thread
    _loop: asyncio.AbstractEventLoop

    @classmethod
    def start(cls, home: Path, engine: FakeEngine, **changes: Any) -> "Orchestrator":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = Settings(home=home, port=port, **({"poll_s": 0.02} | changes))
        app = create_app(settings, executor=FakeExecutor(engine))
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, timeout_graceful_shutdown=1))
        loops: list[asyncio.AbstractEventLoop] = []

        def run() -> None:
            with asyncio.Runner() as runner:
                loops.append(runner.get_loop())
                runner.run(server.serve())

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        until(lambda: server.started or not thread.is_alive(), "the server is up")
        key = settings.find_api_key() or ""
        url = f"http://127.0.0.1:{port}"
        client = Client(url, key, timeout_s=10)
        return cls(settings, engine, client, key, url, app.state.orchestrator, server, thread, loops[0])

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(15)
        assert not self._thread.is_alive()

    def submit(self, type: str = "container", **kwargs: Any) -> str:
        """Submit a job that gets one attempt, unless ``retry`` says otherwise."""
        kwargs.setdefault("retry", RetryPolicy(max_retries=0))
        params = kwargs.pop("params", {"image": "busybox", "command": ["run"]})
        return str(self.client.submit(type, params, **kwargs).id)

    def train(self, **kwargs: Any) -> str:
        """Submit a training job over a model and dataset that exist in name only: the fake engine reads neither."""
        model, dataset = self.settings.models / "tiny", self.settings.datasets / "text.txt"
        model.mkdir(parents=True, exist_ok=True)
        (model / "config.json").write_text('{"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 8}')
        dataset.parent.mkdir(parents=True, exist_ok=True)
        dataset.write_text("some text")
        return self.submit("train_sae", params={"model": "tiny", "dataset": "text"}, **kwargs)

    def run_of(self, job_id: str, attempt: int = 1) -> FakeRun:
        name = f"saeforge-{job_id}-{attempt}"
        until(lambda: self.engine.named(name) is not None, f"{name} is launched")
        run = self.engine.named(name)
        assert run is not None
        return run

    def exit(self, job_id: str, code: int = 0, attempt: int = 1) -> None:
        run = self.run_of(job_id, attempt)
        self._loop.call_soon_threadsafe(run.exit, code)

    def report(self, job_id: str, *events: Event, attempt: int = 1) -> None:
        """Write events as the worker would."""
        path = RunDir(self.run_of(job_id, attempt).spec.run_dir).events
        with path.open("ab") as file:
            file.write("".join(item.model_dump_json() + "\n" for item in events).encode())

    def does(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Have the orchestrator do something on its own loop; what came of it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def status(self, job_id: str) -> str:
        return str(self.client.job(job_id).status)

    def reaches(self, job_id: str, status: str) -> None:
        until(lambda: self.status(job_id) == status, f"{job_id} is {status}", lambda: self.client.job(job_id))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def orchestrator(home: Path, engine: FakeEngine) -> Iterator[Orchestrator]:
    started = Orchestrator.start(home, engine, cpus=4)
    yield started
    started.stop()
