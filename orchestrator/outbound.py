"""Where the orchestrator may send to on somebody's behalf, and how it sends there.

Whoever may name an address could have the orchestrator talk to what only its machine reaches: itself, its neighbours,
a cloud's metadata service. So a name is resolved here, every address it stands for is judged, and the connection goes
to that very address: what the name stands for a moment later does not matter. Redirects are not followed and proxies
not asked, since either would choose another address.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self

import httpx

from orchestrator.errors import InvalidInput, OrchestratorError, SettingsError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Resolves a host name and a port to addresses, as text."""

MAX_ANSWER_BYTES: Final = 16_384
"""How much of an answer is read: nothing in it matters."""
MAX_URL: Final = 2048

_SPECIAL: Final = tuple(
    ip_network(text)
    for text in (
        "192.0.0.0/24",  # protocol assignments; a metadata service of one cloud
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # the host of a virtual machine in one cloud
        "2001::/23",  # protocol assignments, Teredo among them
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "64:ff9b:1::/48",  # translation to private IPv4
        "fec0::/10",  # site-local
    )
)
"""Refused beside what is private, though the library does not count all of it so."""
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")
"""IPv4 addresses as an IPv6-only network shows them."""


class Undeliverable(OrchestratorError):
    """It could not be sent."""

    status = 502
    code = "undeliverable"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be sent to although it is private."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Addresses, networks and host names, separated by commas.

        Raises:
            SettingsError: a part is none of them.
        """
        networks: list[Network] = []
        hosts = set[str]()
        for part in (part.strip().lower() for part in text.split(",")):
            try:
                networks.append(ip_network(part))
            except ValueError:
                if "/" in part or ":" in part or " " in part:
                    raise SettingsError(
                        f"SAEFORGE_WEBHOOK_ALLOW: {part!r} is no address, network or host name",
                        field="SAEFORGE_WEBHOOK_ALLOW",
                        suggestion="write it like 10.1.2.3,192.168.7.0/24,hooks.internal",
                    ) from None
                if part:
                    hosts.add(part)
        return cls(tuple(networks), frozenset(hosts))

    def covers(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self.networks)


def forbidden(address: Address) -> bool:
    """Whether an address is not one of the public internet."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return forbidden(address.ipv4_mapped)
        if address in _TRANSLATED:
            return forbidden(IPv4Address(int(address) & 0xFFFFFFFF))
    if any(address.version == network.version and address in network for network in _SPECIAL):
        return True
    return not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified


def target(url: str) -> httpx.URL:
    """Parse where to send to.

    Raises:
        InvalidInput: it is no plain http or https URL.
    """
    if len(url) > MAX_URL or not url.isprintable() or not url.isascii() or "\\" in url or " " in url:
        raise _refused_url("it is too long, or holds characters that no URL has")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise _refused_url(str(error)) from error
    if parsed.scheme not in ("http", "https"):
        raise _refused_url("only http and https are sent to")
    if not parsed.host or not 0 < _port(parsed) < 65_536:
        raise _refused_url("it names no host, or no port that there can be")
    if parsed.userinfo:
        raise _refused_url("it holds a user name or password, which would be kept in plain sight")
    if parsed.fragment:
        raise _refused_url("it holds a fragment, which is never sent")
    return parsed


async def look_up(host: str, port: int) -> list[str]:
    """What the system says a name stands for."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status_code: int
    duration_s: float
    retry_after_s: float | None = None
    """How long it asks to be left alone, when it does."""


class Outbound:
    """Sends to the public internet, and to what is allowed beside it."""

    def __init__(self, allowed: Allowed, *, timeout_s: float, look_up: Lookup = look_up) -> None:
        self._allowed, self._timeout_s, self._look_up = allowed, timeout_s, look_up
        self._client = httpx.AsyncClient(
            # The system's authorities, so that one's own can be among them.
            verify=ssl.create_default_context(),
            trust_env=False,
            follow_redirects=False,
            timeout=timeout_s,
            # A connection is to an address, and several names may share one: none is used for two.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def addresses(self, url: httpx.URL) -> list[str]:
        """The addresses behind a URL, if it may be sent to all of them.

        Raises:
            InvalidInput: one of them is not public, and not allowed either.
            Undeliverable: the name stands for nothing.
        """
        try:
            found = await self._look_up(url.host, _port(url))
        except (OSError, UnicodeError) as error:
            raise Undeliverable(f"{url.host} cannot be resolved: {error}") from error
        if not found:
            raise Undeliverable(f"{url.host} stands for no address")
        for text in found:
            # A scope (after %) belongs to link-local addresses, which are refused whatever it is.
            address = ip_address(text.partition("%")[0])
            if forbidden(address) and not self._allowed.covers(address) and url.host not in self._allowed.hosts:
                raise InvalidInput(
                    f"{url.host} stands for {text}, which is not on the public internet",
                    field="url",
                    suggestion=f"if it may be sent to, add {text} to SAEFORGE_WEBHOOK_ALLOW on the orchestrator",
                )
        return found

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send it, and wait for the answer's first line.

        Raises:
            InvalidInput: it may not be sent there.
            Undeliverable: nobody took it: no connection, no answer in time, or none that is HTTP.
        """
        begun = time.monotonic()
        parsed = target(url)
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._send(parsed, await self.addresses(parsed), body, headers)
        except TimeoutError:
            raise Undeliverable(f"no answer within {self._timeout_s:g} s") from None
        except httpx.HTTPError as error:
            raise Undeliverable(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        return Answer(response.status_code, time.monotonic() - begun, _retry_after_s(response))

    async def _send(
        self, url: httpx.URL, addresses: list[str], body: bytes, headers: Mapping[str, str]
    ) -> httpx.Response:
        for number, address in enumerate(addresses, start=1):
            request = self._client.build_request(
                "POST",
                url.copy_with(host=address),
                content=body,
                headers={**headers, "Host": url.netloc.decode("ascii")},
                extensions={"sni_hostname": url.host},
            )
            try:
                response = await self._client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if number == len(addresses):
                    raise
                continue
            await _read_some(response)
            return response
        raise AssertionError("the last address returns or raises")


async def _read_some(response: httpx.Response) -> None:
    """Take a little of the answer, so that its sender is not cut off in mid-word, and let go of the rest."""
    taken = 0
    try:
        async for piece in response.aiter_raw():
            taken += len(piece)
            if taken > MAX_ANSWER_BYTES:
                break
    finally:
        await response.aclose()


def _port(url: httpx.URL) -> int:
    if url.port is not None:
        return url.port
    return 443 if url.scheme == "https" else 80


def _retry_after_s(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() else None


def _refused_url(why: str) -> InvalidInput:
    return InvalidInput(f"url: {why}", field="url", suggestion="write it like https://example.org/hooks/saeforge")
