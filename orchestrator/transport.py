"""How a client reaches the orchestrator: requests with retries, WebSockets that come back, answers turned to errors."""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import requests
from pydantic import BaseModel, ValidationError
from requests.auth import AuthBase
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import Close
from websockets.sync.client import connect

from orchestrator.errors import (
    EngineUnavailable,
    Forbidden,
    InvalidInput,
    NotFound,
    OrchestratorError,
    SettingsError,
    StateConflict,
    TooLarge,
    Unauthenticated,
)
from orchestrator.settings import LOOPBACK
from orchestrator.streams import LONGEST_DELAY_S, Patience, Stream, UnexpectedAnswer, delay_s, error_kind
from orchestrator.views import ErrorView

_TRANSIENT = frozenset({429, 502, 503, 504})
_GATEWAY = frozenset({502, 503, 504})
_BY_STATUS: dict[int, type[OrchestratorError]] = {
    kind.status: kind for kind in (InvalidInput, Unauthenticated, Forbidden, NotFound, StateConflict, TooLarge)
}

KEY_ADVICE = "set SAEFORGE_API_KEY (the key is in <home>/api-key on the orchestrator's machine)"
"""What to do about a key that is missing or wrong. The API speaks of headers, which no user of a client sends."""

FAILURES_BEFORE_POLLING = 3
"""Tries in a row to connect a WebSocket before its news is asked for over HTTP."""
POLL_S = 2.0
"""Between two such questions; a WebSocket is tried again each time."""

Item = TypeVar("Item")


class Unreachable(OrchestratorError):
    """The orchestrator does not answer."""

    status = 503
    code = "unreachable"


class Transport:
    """One orchestrator's address and key, and the patience to reach it."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        timeout_s: float,
        retries: int,
        backoff_s: float,
        reconnect_for_s: float,
        ca_file: Path | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise SettingsError(
                f"SAEFORGE_URL: {url!r} is not an address",
                field="SAEFORGE_URL",
                suggestion="write it like http://127.0.0.1:8000",
            )
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise Unauthenticated("the API key holds characters that no key has", suggestion=KEY_ADVICE)
        self.url = url
        self.api_key = api_key
        self.timeout_s = timeout_s
        self.reconnect_for_s = reconnect_for_s
        self._local = parts.hostname in LOOPBACK
        self._retries = retries
        self._backoff_s = backoff_s
        self._ca_file = ca_file
        self._tls = _tls(ca_file) if parts.scheme == "https" else None
        self._session = requests.Session()
        self._session.auth = _KeyAuth(api_key)
        # A proxy cannot reach this machine's loopback on our behalf.
        self._session.trust_env = not self._local

    def close(self) -> None:
        self._session.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: BaseModel | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = False,
        stream: bool = False,
    ) -> requests.Response:
        """Send a request and return the good answer; raise the error that any other one stands for."""
        payload = body.model_dump(mode="json", exclude_unset=False) if isinstance(body, BaseModel) else body
        tries = 1 + (self._retries if repeatable else 0)
        for attempt in range(tries):
            last = attempt == tries - 1
            wanted_s: float | None = None
            try:
                response = self._session.request(
                    method,
                    self.url + path,
                    params=query,
                    json=payload,
                    headers=headers,
                    timeout=self.timeout_s,
                    # Said with every request: said of the session only, the environment's own would go before it.
                    verify=str(self._ca_file) if self._ca_file else None,
                    stream=stream,
                    allow_redirects=False,
                )
            except (requests.ConnectionError, requests.Timeout) as error:
                if last:
                    raise self._unreachable(error) from error
            except requests.RequestException as error:
                raise UnexpectedAnswer(f"{method} {self.url}{path}: {error}") from error
            else:
                if response.status_code < 300:
                    return response
                if last or response.status_code not in _TRANSIENT:
                    raise self._refused(response)
                wanted_s = _retry_after_s(response)
                response.close()
            time.sleep(delay_s(self._backoff_s, attempt) if wanted_s is None else wanted_s)
        raise AssertionError("the last try returns or raises")

    def _refused(self, response: requests.Response) -> OrchestratorError:
        if 300 <= response.status_code < 400:
            return UnexpectedAnswer(
                f"{self.url} sends elsewhere: {response.headers.get('Location', 'nowhere')}",
                suggestion="set SAEFORGE_URL to the address it names",
            )
        return self._error(response.status_code, response.content)

    def _error(self, status: int, content: bytes) -> OrchestratorError:
        """The error that an answer stands for."""
        try:
            view = ErrorView.model_validate_json(content)
        except ValidationError:
            if status in _GATEWAY:
                return self._unreachable(f"HTTP {status}")
            kind = _BY_STATUS.get(status)
            return kind() if kind else UnexpectedAnswer(f"{self.url} answered {status}")
        kind = error_kind(view.code) or _BY_STATUS.get(status)
        if kind is None:
            return UnexpectedAnswer(f"{view.message} ({status} {view.code})", suggestion=view.details.suggestion)
        suggestion = view.details.suggestion
        if kind is Unauthenticated:
            suggestion = KEY_ADVICE
        return kind(view.message, field=view.details.field, suggestion=suggestion)

    def _unreachable(self, reason: object) -> Unreachable:
        return Unreachable(
            f"no orchestrator answers at {self.url} ({_in_few_words(reason)})",
            suggestion="start it with 'saeforge up', or set SAEFORGE_URL to where it is",
        )

    def download(self, path: str, query: Mapping[str, Any], target: Path | str | IO[bytes], *, name: str) -> int:
        response = self.call("GET", path, query=query, repeatable=True, stream=True)
        with response, _opened(target, name) as file:
            size_bytes = 0
            try:
                for block in response.iter_content(1 << 16):
                    file.write(block)
                    size_bytes += len(block)
            except requests.RequestException as error:
                raise self._unreachable(error) from error
        return size_bytes

    def continue_download(self, path: str, query: Mapping[str, Any], draft: Path, size_bytes: int) -> Iterator[int]:
        """Bring a file that may have been begun to its whole size; how much of it is there, as it grows.

        A lost connection is taken up again where it was cut, for as long as patience lasts.

        Raises:
            Unreachable: it did not come back. What has arrived stays.
        """
        patience = self._patience()
        while (there := draft.stat().st_size if draft.exists() else 0) < size_bytes or not draft.exists():
            try:
                headers = {"Range": f"bytes={there}-"} if there else None
                response = self.call("GET", path, query=query, headers=headers, repeatable=True, stream=True)
                continued = response.status_code == 206
                with response, draft.open("ab" if continued else "wb") as file:
                    there = there if continued else 0
                    for block in response.iter_content(1 << 16):
                        file.write(block)
                        there += len(block)
                        patience.renew()
                        yield there
                return
            except (requests.RequestException, Unreachable) as lost:
                time.sleep(self._before_reconnect_s(lost, patience))

    # WebSockets

    def _socket(self, path: str) -> dict[str, Any]:
        """Arguments for ``connect``, sync or async."""
        return {
            "uri": "ws" + self.url.removeprefix("http") + path,
            "additional_headers": {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {},
            "proxy": None if self._local else True,
            "ssl": self._tls,
            "open_timeout": self.timeout_s,
            "close_timeout": 1.0,
            "max_size": None,
            "compression": None,
        }

    def follow(self, stream: Stream[Item]) -> Generator[Item, None, None]:
        """What a stream brings, over a WebSocket that is taken up again whenever it is lost; where none can be had
        although the orchestrator answers, by asking every ``POLL_S`` seconds."""
        patience = self._patience()
        while not stream.ended:
            try:
                with connect(**self._socket(stream.path)) as socket:
                    for message in socket:
                        item = stream.receive(message)
                        patience.renew()
                        if item is not None:
                            yield item
                        if stream.ended:
                            return
                lost: Exception = ConnectionError("the orchestrator closed the connection")
            except (OSError, WebSocketException, EngineUnavailable) as error:
                lost = error
            self._check_refusal(lost)
            if patience.failures >= FAILURES_BEFORE_POLLING and (items := self._polled(stream)) is not None:
                patience.renew(polled=True)
                while items:
                    yield from items
                    items = self._polled(stream)
                time.sleep(0 if stream.ended else POLL_S)
            else:
                time.sleep(self._before_reconnect_s(lost, patience))

    async def afollow(self, stream: Stream[Item]) -> AsyncGenerator[Item, None]:
        """``follow`` for asyncio."""
        patience = self._patience()
        while not stream.ended:
            try:
                async with connect_async(**self._socket(stream.path)) as socket:
                    async for message in socket:
                        item = stream.receive(message)
                        patience.renew()
                        if item is not None:
                            yield item
                        if stream.ended:
                            return
                lost: Exception = ConnectionError("the orchestrator closed the connection")
            except (OSError, WebSocketException, EngineUnavailable) as error:
                lost = error
            self._check_refusal(lost)
            polling = patience.failures >= FAILURES_BEFORE_POLLING
            if polling and (items := await asyncio.to_thread(self._polled, stream)) is not None:
                patience.renew(polled=True)
                while items:
                    for item in items:
                        yield item
                    items = await asyncio.to_thread(self._polled, stream)
                await asyncio.sleep(0 if stream.ended else POLL_S)
            else:
                await asyncio.sleep(self._before_reconnect_s(lost, patience))

    def _polled(self, stream: Stream[Item]) -> Sequence[Item] | None:
        """What the stream has to say over HTTP; none when the orchestrator does not answer there either."""
        try:
            return stream.poll(lambda path, query: self.call("GET", path, query=query).content)
        except ValidationError:
            return None
        except OrchestratorError as error:
            if error.status < 429:
                raise
            return None

    def _patience(self) -> Patience:
        return Patience(self._retries, self._backoff_s, self.reconnect_for_s)

    def _check_refusal(self, lost: Exception) -> None:
        """Raise what a connection was refused or closed for, when that will not pass."""
        if isinstance(lost, InvalidStatus) and lost.response.status_code not in _TRANSIENT:
            raise self._error(lost.response.status_code, bytes(lost.response.body or b"")) from lost
        if isinstance(lost, ConnectionClosed) and lost.rcvd and (kind := _refusal(lost.rcvd)):
            raise kind() from lost

    def _before_reconnect_s(self, lost: Exception, patience: Patience) -> float:
        """Seconds to wait before the next try. Raises: OrchestratorError, once patience ran out."""
        wait_s = patience.next_delay_s(time.monotonic())
        if wait_s is None:
            if isinstance(lost, EngineUnavailable):
                raise lost
            raise self._unreachable(lost) from lost
        return wait_s


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    """Raises: SettingsError."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"SAEFORGE_CA_FILE: {ca_file} holds no certificates ({error})",
            field="SAEFORGE_CA_FILE",
            suggestion="name a file of certificates in PEM",
        ) from None


class _KeyAuth(AuthBase):
    """Presents the key. Being set at all also keeps requests from reading ~/.netrc instead."""

    def __init__(self, api_key: str | None) -> None:
        self._api_key = api_key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._api_key:
            request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request


def _refusal(close: Close) -> type[OrchestratorError] | None:
    """The client's error that a connection was closed for: its code is the reason, its status may be in the number."""
    kind = error_kind(close.reason) or _BY_STATUS.get(close.code - 4000)
    return kind if kind and kind.status < 500 else None


def _retry_after_s(response: requests.Response) -> float | None:
    with suppress(KeyError, ValueError):
        return min(LONGEST_DELAY_S, max(0.0, float(response.headers["Retry-After"])))
    return None


def _in_few_words(reason: object) -> str:
    """The innermost cause: requests wraps urllib3, which wraps the operating system's own words."""
    cause = reason
    while isinstance(cause, BaseException) and (inner := cause.__cause__ or cause.__context__):
        cause = inner
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__


@contextmanager
def _opened(target: Path | str | IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """A stream as it is; a path as a file that appears only when it is whole."""
    if not isinstance(target, Path | str):
        yield target
        return
    path = Path(target)
    if path.is_dir():
        path = path / name
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            yield file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
