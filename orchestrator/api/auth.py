"""Who may come in, and what they may do here: one check for HTTP and WebSocket alike.

``Guard`` (ASGI) finds out for whom a request speaks before anything else looks at it. ``authorise``, a dependency of
the whole app, then asks whether that principal may use the route. A route says what it needs: ``@needs(Role.READ)``.
"""

import asyncio
import base64
import binascii
import hmac
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

from starlette.requests import HTTPConnection

from orchestrator.access import ANONYMOUS, MACHINE, Principal, Role
from orchestrator.api.origins import Origins
from orchestrator.api.tokens import Tokens
from orchestrator.errors import Forbidden, NotFound, RateLimited, SettingsError, Unauthenticated
from orchestrator.keyring import KeyRing
from orchestrator.rates import Buckets
from orchestrator.settings import LOOPBACK, Settings

logger = logging.getLogger(__name__)

TICKET_S = 30.0
KEY_PREFIX = "sf_"
STRONG_KEY_CHARACTERS: Final = 24
"""Fewest characters of a key of one's own that is hard to guess."""
STRONG_KEY_DIFFERENT: Final = 8
"""Fewest different characters in one."""

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Needs:
    """What a route asks of whoever uses it."""

    role: Role
    whole: bool
    """Whether it concerns the jobs of all owners, so that a scoped key may not use it."""


def needs(role: Role, *, whole: bool = False) -> Callable[[Endpoint], Endpoint]:
    """Declare what a route asks for. A route that declares nothing is for admins only, and a test fails.

    A route with a path parameter ``id``, or a query parameter ``job``, is about that job: scoped keys get a 404 unless
    it is within their reach. A route that lists asks ``Principal`` what to show. One that can do neither is ``whole``.
    """

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.__needs__ = Needs(role, whole)  # type: ignore[attr-defined]
        return endpoint

    return declare


def needs_of(endpoint: object) -> Needs | None:
    """What a route's function declares."""
    found = getattr(endpoint, "__needs__", None)
    return found if isinstance(found, Needs) else None


def is_public(path: str) -> bool:
    """Whether this path asks for no key. The whole list of those that do not."""
    return path == "/health" or path.startswith("/health/")


def principal_of(connection: HTTPConnection) -> Principal:
    """For whom this request speaks."""
    found: Principal = connection.scope["state"]["principal"]
    return found


async def authorise(connection: HTTPConnection) -> None:
    """The one dependency of every route.

    Raises:
        Forbidden: the role does not suffice, or the route is about all owners and the key about one.
        NotFound: it is about a job beyond the key's reach.
    """
    if is_public(connection.scope["path"]):
        return
    principal = principal_of(connection)
    declared = needs_of(connection.scope.get("endpoint")) or Needs(Role.ADMIN, whole=True)
    if not principal.role.covers(declared.role):
        raise Forbidden(
            f"this needs the role {declared.role!s}, and the key has {principal.role!s}",
            suggestion="ask an admin for another key",
        )
    if not principal.scoped:
        return
    if declared.whole:
        raise Forbidden("this concerns the jobs of everybody, and the key is limited to some")
    for text in (connection.path_params.get("id"), connection.query_params.get("job")):
        job_id = _uuid(text)
        if job_id is not None:
            job = await connection.app.state.orchestrator.store.job(job_id)
            if not principal.covers(job.owner, job.type):
                raise no_such_job(job_id)


def no_such_job(job_id: UUID) -> NotFound:
    """What a job beyond a key's reach looks like: the same as one that never was."""
    return NotFound(f"there is no job {job_id}", field="id", suggestion="GET /api/jobs lists the jobs there are")


def _uuid(text: object) -> UUID | None:
    try:
        return UUID(str(text))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Ticket:
    """Lets a browser open one WebSocket without ever holding a key."""

    principal: Principal
    job_id: UUID | None
    """The only job it opens; any within the principal's reach when empty."""
    expires_at: float


def api_key(settings: Settings) -> str:
    """The machine's own key.

    Taken from the settings, else from the key file, else generated into a file only its owner can read.

    Raises:
        SettingsError: no header could carry the key, or it is easily guessed and the network may try.
    """
    known = settings.find_api_key()
    if known is not None:
        if not (known.isascii() and known.isprintable()) or " " in known:
            raise SettingsError(
                "SAEFORGE_API_KEY: no header can carry it",
                field="SAEFORGE_API_KEY",
                suggestion="use printable ASCII characters without spaces",
            )
        if settings.host not in LOOPBACK and not is_strong(known):
            raise SettingsError(
                f"SAEFORGE_API_KEY: refusing to listen on {settings.host} with a key that can be guessed",
                field="SAEFORGE_API_KEY",
                suggestion=f"at least {STRONG_KEY_CHARACTERS} random characters: openssl rand -base64 32",
            )
        return known
    settings.home.mkdir(parents=True, exist_ok=True)
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    _write_private(settings.key_file, key + "\n")
    return key


def is_strong(key: str) -> bool:
    """Whether a key of one's own looks hard to guess."""
    return len(key) >= STRONG_KEY_CHARACTERS and len(set(key)) >= STRONG_KEY_DIFFERENT


def _write_private(path: Path, text: str) -> None:
    draft = path.with_suffix(".tmp")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def credential_of(connection: HTTPConnection) -> str | None:
    """The key or token in a request: as bearer, as ``X-API-Key``, or as the password a browser itself asks for."""
    scheme, _, rest = connection.headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.strip()
        case "basic":
            try:
                return base64.b64decode(rest, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return ""
        case "":
            return connection.headers.get("x-api-key")
        case _:
            return ""


class Gate:
    """Knows every way to come in: the machine's key, made keys, tokens and tickets; and how often they may."""

    def __init__(self, settings: Settings, keys: KeyRing, *, machine_key: str | None, tokens: Tokens | None) -> None:
        """Without a machine key everyone on this machine may come in; the settings allow that on loopback only."""
        self.origins = Origins(settings)
        self.tokens = tokens
        self.keys = keys
        self._machine_key = machine_key
        # A key that was made here cannot be guessed, however many tries there are; one of the user's own might.
        self._may_be_guessed = settings.api_key is not None
        if machine_key is not None and self._may_be_guessed and not is_strong(machine_key):
            logger.warning("SAEFORGE_API_KEY can be guessed; make one: openssl rand -base64 32")
        per_s = settings.rate_limit_per_s
        self._rates = Buckets(per_s, 2 * per_s) if per_s else None
        per_minute = settings.auth_failures_per_minute
        self._failures = Buckets(per_minute / 60, per_minute)
        self._tickets: dict[str, Ticket] = {}
        self._stays: dict[str | None, set[asyncio.Timeout]] = {}

    def admit(self, connection: HTTPConnection) -> Principal | None:
        """For whom the request speaks by the credential it carries; none when it carries none.

        Raises:
            Unauthenticated: the credential is no good.
            RateLimited: there were too many requests, or too many wrong credentials.
        """
        if self._machine_key is None:
            return ANONYMOUS
        address = connection.client.host if connection.client else ""
        given = credential_of(connection)
        principal = None if given is None else self._identify(given, address)
        # The machine's own key is not limited: whoever has it could as well write into the home.
        if self._rates is not None and principal is not MACHINE:
            wait_s = self._rates.take(principal.id if principal else address)
            if wait_s:
                raise RateLimited(retry_after_s=wait_s)
        return principal

    def _identify(self, given: str, address: str) -> Principal:
        if not self._may_be_guessed and self._is_machine_key(given):
            return MACHINE
        if (principal := self.keys.find(given)) is not None:
            return principal
        wait_s = self._failures.wait_s(address)
        if wait_s:
            raise RateLimited("too many wrong keys from this address", retry_after_s=wait_s)
        if self._is_machine_key(given):
            return MACHINE
        try:
            if self.tokens is not None and given.count(".") == 2:
                return self.tokens.read(given, self.keys.in_force)
            raise Unauthenticated("the API key is wrong, revoked or expired")
        except Unauthenticated:
            self._failures.take(address)
            if self._failures.wait_s(address):
                logger.warning("too many wrong keys from %s; not listening to it for a while", address)
            raise

    def _is_machine_key(self, given: str) -> bool:
        assert self._machine_key is not None
        return hmac.compare_digest(given.encode(), self._machine_key.encode())

    def issue(self, principal: Principal, job_id: UUID | None) -> str:
        """A ticket good for one use within ``TICKET_S`` seconds, which speaks for the same principal."""
        now = time.monotonic()
        self._tickets = {name: ticket for name, ticket in self._tickets.items() if ticket.expires_at > now}
        name = secrets.token_urlsafe(24)
        self._tickets[name] = Ticket(principal, job_id, now + TICKET_S)
        return name

    def redeem(self, name: object, connection: HTTPConnection) -> Principal:
        """Use a ticket up.

        Raises:
            Unauthenticated: it is unknown, used, expired, or for another job than the connection is about.
        """
        ticket = self._tickets.pop(name, None) if isinstance(name, str) else None
        if ticket is None or ticket.expires_at < time.monotonic() or not self._still_in(ticket.principal):
            raise Unauthenticated("the ticket is unknown, used or expired", suggestion="ask POST /api/tickets for one")
        if ticket.job_id is not None and _jobs_named(connection) != {ticket.job_id}:
            raise Unauthenticated("the ticket is for another job", suggestion="ask POST /api/tickets for one")
        return ticket.principal

    def _still_in(self, principal: Principal) -> bool:
        expired = principal.expires_at is not None and principal.expires_at <= datetime.now(UTC)
        return not expired and (principal.key_id is None or self.keys.in_force(principal.key_id))

    @asynccontextmanager
    async def stay(self, principal: Principal) -> AsyncIterator[None]:
        """A connection that lasts: the block is cancelled when the principal's key is revoked or expires.

        Raises:
            Unauthenticated: that happened.
        """
        deadline = None
        if principal.expires_at is not None:
            left_s = (principal.expires_at - datetime.now(UTC)).total_seconds()
            deadline = asyncio.get_running_loop().time() + left_s
        try:
            async with asyncio.timeout_at(deadline) as stay:
                stays = self._stays.setdefault(principal.key_id, set())
                stays.add(stay)
                try:
                    yield
                finally:
                    stays.discard(stay)
        except TimeoutError as error:
            if not stay.expired():
                raise
            raise Unauthenticated("the key was revoked or has expired") from error

    def show_out(self, key_id: str) -> None:
        """End every lasting connection that stands on this key."""
        now = asyncio.get_running_loop().time()
        for stay in self._stays.pop(key_id, set()):
            stay.reschedule(now)


def _jobs_named(connection: HTTPConnection) -> set[UUID]:
    """The jobs that a connection is about: named in its path, or as ``?job=``."""
    texts = [*connection.scope["path"].split("/"), *connection.query_params.getlist("job")]
    return {job_id for text in texts if (job_id := _uuid(text)) is not None}
