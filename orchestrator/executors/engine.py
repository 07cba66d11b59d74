"""The container engine through its blocking SDK: off the event loop, with the SDK's errors turned into ours."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, Final, TypeVar

import docker
import docker.constants
import docker.errors
import docker.utils
import requests
import urllib3

from orchestrator.errors import EngineUnavailable, ExecutorError

T = TypeVar("T")

CALL_TIMEOUT_S: Final = 60
"""Longest wait for one answer of the engine; starting a container on a busy machine takes seconds."""
CHECK_TIMEOUT_S: Final = 2

_SILENT: Final = (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""What the SDK raises when the engine does not answer (an ``APIError`` is an answer, and is caught before)."""

_UNIX: Final = "http+unix://"


class Engine:
    """The engine that the environment names. Connects at the first call, and afresh after it was lost."""

    def __init__(self) -> None:
        self._client: docker.APIClient | None = None
        self._asker: docker.APIClient | None = None
        """Gives up sooner, and is made but once: making a client takes longer than asking."""
        self._name: str | None = None
        """Asked for once, for the engine runs other programs to tell; it cannot change without going away."""

    async def version(self) -> str:
        """Which engine answers, within ``CHECK_TIMEOUT_S``.

        Raises:
            EngineUnavailable: none does.
        """

        def version() -> str:
            _knock()
            if self._asker is None:
                # Which engine it is can be asked in any version of its API, so that one need not be agreed on first.
                self._asker = _connect(CHECK_TIMEOUT_S, docker.constants.MINIMUM_DOCKER_API_VERSION)
            if self._name is None:
                self._name = f"Docker {self._asker.version()['Version']}"
            else:
                self._asker.ping()
            return self._name

        try:
            return await _in_thread(version)
        except _SILENT as why:
            self.close()
            raise unavailable(why) from why

    async def call(
        self,
        action: Callable[[docker.APIClient], T],
        refused: Callable[[docker.errors.APIError], ExecutorError] | None = None,
    ) -> T:
        """Run ``action`` with the connected client in a thread: the only way to the engine.

        Raises:
            EngineUnavailable: the engine does not answer; the next call connects afresh.
            ExecutorError: it answers and refuses, in the words of ``refused``.
        """

        def connected() -> T:
            _knock()
            if self._client is None:
                self._client = _connect(CALL_TIMEOUT_S)
            return action(self._client)

        try:
            return await _in_thread(connected)
        except docker.errors.APIError as refusal:
            if refused is None:
                raise unavailable(refusal) from refusal
            raise refused(refusal) from refusal
        except _SILENT as why:
            self.close()
            raise unavailable(why) from why

    async def events(self, filters: dict[str, list[str]]) -> AsyncGenerator[None]:
        """Yields once the engine is listened to, and at each of its events that match; ends when it is gone.

        Raises:
            EngineUnavailable: it does not answer.
        """
        try:
            stream = await _in_thread(partial(_Events, filters))
        except _SILENT as why:
            raise unavailable(why) from why
        try:
            yield
            while await stream.next():
                yield
        finally:
            stream.close()

    def close(self) -> None:
        """Let go of the connections; the next call makes another."""
        clients = self._client, self._asker
        self._client = self._asker = self._name = None
        for client in clients:
            if client is not None:
                client.close()


class _Events:
    """The engine's events, read by a daemon thread of their own on a connection of their own."""

    def __init__(self, filters: dict[str, list[str]]) -> None:
        """Blocking."""
        _knock()
        self._client = _connect(None)
        self._stream = self._client.events(filters=filters)

    async def next(self) -> bool:
        """Wait for the next event; False when there will be none."""

        def read() -> bool:
            return next(self._stream, None) is not None

        try:
            return await _in_thread(read)
        except (*_SILENT, ValueError):  # the SDK reads on from what it has closed
            return False

    def close(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # the SDK looks for a socket that is gone with its engine
            self._stream.close()
        self._client.close()


async def _in_thread(action: Callable[[], T]) -> T:
    """Run blocking ``action`` in a daemon thread of its own.

    Not in a pool: an engine that hangs would fill it, and its threads would be waited for when the program ends.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(setter: Callable[[Any], None], value: object) -> None:
        if not outcome.done():
            setter(value)

    def run() -> None:
        try:
            done: tuple[Callable[[Any], None], object] = (outcome.set_result, action())
        except Exception as error:
            done = (outcome.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, *done)

    threading.Thread(target=run, daemon=True, name="docker").start()
    return await outcome


def engine_is_installed() -> bool:
    """Whether there is an engine on this machine that this user may use, though it may be down. Blocking.

    Told by its socket: that is made by the system when it starts, before the engine itself, and stays when that dies.
    """
    address = str(docker.utils.parse_host(os.environ.get("DOCKER_HOST")))
    if not address.startswith(_UNIX):
        return True  # somebody named an engine elsewhere
    return os.access(address.removeprefix(_UNIX), os.W_OK)


def _knock() -> None:
    """Raise OSError unless somebody listens: the SDK would leave the socket of a failed connection open."""
    address = str(docker.utils.parse_host(os.environ.get("DOCKER_HOST")))
    if address.startswith(_UNIX):
        with socket.socket(socket.AF_UNIX) as knock:
            knock.settimeout(CHECK_TIMEOUT_S)
            knock.connect(address.removeprefix(_UNIX))


def _connect(timeout_s: int | None, version: str = "auto") -> docker.APIClient:
    # A client without a timeout is not foreseen by its stubs.
    return docker.APIClient(version=version, timeout=timeout_s, **docker.utils.kwargs_from_env())  # type: ignore[arg-type]


def words_of(refusal: docker.errors.APIError) -> str:
    return str(refusal.explanation or refusal).strip()


def unavailable(why: Exception) -> EngineUnavailable:
    if "Permission denied" in str(why):
        advice = "let this user use the engine: sudo usermod -aG docker $USER, then log in again"
    else:
        advice = "start it (sudo systemctl start docker), or install it with: make demo DOCKER=install"
    return EngineUnavailable(f"the Docker engine does not answer: {why}", suggestion=advice)
