"""Who may come in: one check for HTTP and WebSocket alike."""

import hmac
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from starlette.requests import HTTPConnection

from orchestrator.errors import Forbidden, SettingsError, Unauthenticated
from orchestrator.settings import LOOPBACK, Settings

TICKET_S = 30.0
KEY_PREFIX = "sf_"


@dataclass(frozen=True, slots=True)
class Ticket:
    """Lets a browser open one WebSocket without ever holding the key."""

    job_id: UUID | None
    """The only job it opens; any job when empty."""
    expires_at: float


def api_key(settings: Settings) -> tuple[str, bool]:
    """The key the API asks for, and whether it was made just now.

    Taken from the settings, else from the key file, else generated into a file only its owner can read.

    Raises:
        SettingsError: no header could carry the key.
    """
    known = settings.find_api_key()
    if known is not None:
        if not (known.isascii() and known.isprintable()) or " " in known:
            raise SettingsError(
                "SAEFORGE_API_KEY: no header can carry it",
                field="SAEFORGE_API_KEY",
                suggestion="use printable ASCII characters without spaces",
            )
        return known, False
    settings.home.mkdir(parents=True, exist_ok=True)
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    _write_private(settings.key_file, key + "\n")
    return key, True


def _write_private(path: Path, text: str) -> None:
    draft = path.with_suffix(".tmp")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


class Gate:
    """Checks keys, tickets and origins."""

    def __init__(self, key: str | None, origins: tuple[str, ...]) -> None:
        """Without a key everyone on this machine may come in; the settings allow that on loopback only."""
        self._key = key
        self._origins = frozenset(origins)
        self._tickets: dict[str, Ticket] = {}

    def check(self, connection: HTTPConnection) -> None:
        """Raise unless the connection carries the key.

        Raises:
            Unauthenticated: it carries none, or a wrong one.
            Forbidden: a browser sent it from a page that may not use the API.
        """
        self.check_origin(connection)
        if not self.has_key(connection):
            raise Unauthenticated(
                suggestion="send the header 'Authorization: Bearer <key>'; the key is in <home>/api-key"
            )

    def check_origin(self, connection: HTTPConnection) -> None:
        """Browsers name the page a request comes from; other clients do not. Raises: Forbidden."""
        if self._key is None and connection.url.hostname not in LOOPBACK:
            # A page can have its own name resolve to loopback, and would then be of the same origin as this API.
            raise Forbidden("without auth only loopback names are answered", suggestion="use http://127.0.0.1")
        origin = connection.headers.get("origin")
        if origin is None or origin in self._origins:
            return
        if origin.split("://", 1)[-1] == connection.headers.get("host"):
            return
        raise Forbidden(f"pages of {origin} may not use this API", suggestion="add it to SAEFORGE_ALLOWED_ORIGINS")

    def has_key(self, connection: HTTPConnection) -> bool:
        if self._key is None:
            return True
        scheme, _, bearer = connection.headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else connection.headers.get("x-api-key", "")
        return hmac.compare_digest(given.encode(), self._key.encode())

    def issue(self, job_id: UUID | None) -> str:
        """A ticket good for one use within ``TICKET_S`` seconds."""
        now = time.monotonic()
        self._tickets = {name: ticket for name, ticket in self._tickets.items() if ticket.expires_at > now}
        name = secrets.token_urlsafe(24)
        self._tickets[name] = Ticket(job_id, now + TICKET_S)
        return name

    def redeem(self, name: object, job_id: UUID | None) -> None:
        """Use a ticket up.

        Raises:
            Unauthenticated: it is unknown, used, expired, or for another job.
        """
        ticket = self._tickets.pop(name, None) if isinstance(name, str) else None
        if ticket is None or ticket.expires_at < time.monotonic() or ticket.job_id not in (None, job_id):
            raise Unauthenticated("the ticket is unknown, used or expired", suggestion="ask POST /api/tickets for one")


async def require_key(connection: HTTPConnection) -> None:
    """The one dependency of every HTTP route that is not public. Async, or it would be sent to a thread."""
    gate: Gate = connection.app.state.orchestrator.gate
    gate.check(connection)
