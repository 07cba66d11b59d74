"""Who may do what: roles, API keys, and the principal a request acts for."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from orchestrator.errors import Forbidden

DEFAULT_OWNER: Final = "default"
"""Whose a job is when neither its submitter nor the key says."""
KEY_PREFIX: Final = "sfk_"
_KEY = re.compile(r"sfk_([0-9a-f]{12})_[\w-]{43}")


class Role(StrEnum):
    """What a key may do. Each may do all that the ones before it may."""

    READ = "read"
    """Look at jobs, logs, metrics and the machine."""
    WRITE = "write"
    """Submit jobs and act on them."""
    ADMIN = "admin"
    """Manage keys and the orchestrator itself."""

    def covers(self, needed: "Role") -> bool:
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(needed)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request acts for, and how far that reaches."""

    id: str
    """Id of its key, ``token:<subject>``, ``machine`` or ``anonymous``."""
    name: str
    role: Role
    owner: str | None = None
    """The only owner whose jobs it sees and acts on; all when empty."""
    types: tuple[str, ...] = ()
    """The only job types it sees and acts on; all when empty."""
    expires_at: datetime | None = None
    key_id: str | None = None
    """The stored key it stands on; it ends with that key."""

    @property
    def scoped(self) -> bool:
        """Whether some jobs are beyond its reach."""
        return self.owner is not None or bool(self.types)

    def covers(self, owner: str, job_type: str) -> bool:
        """Whether jobs of this owner and type are within its reach."""
        return self.owner in (None, owner) and (not self.types or job_type in self.types)

    def owner_for(self, wanted: str | None, field: str = "owner") -> str:
        """Whose a new job or secret becomes.

        Raises:
            Forbidden: another owner is wanted than the key acts for.
        """
        if self.owner is not None and wanted not in (None, self.owner):
            raise Forbidden(
                f"{field}: this key acts for {self.owner!r} only", field=field, suggestion=f"leave {field} out"
            )
        return wanted or self.owner or DEFAULT_OWNER

    def may_submit(self, job_type: str) -> None:
        """Raise unless jobs of this type are within its reach.

        Raises:
            Forbidden: they are not.
        """
        if self.types and job_type not in self.types:
            allowed = ", ".join(self.types)
            raise Forbidden(f"type: this key may not submit {job_type!r} jobs", field="type", suggestion=allowed)


MACHINE: Final = Principal("machine", "the machine's own key", Role.ADMIN)
"""Whoever holds the home's own key."""
ANONYMOUS: Final = Principal("anonymous", "anyone: auth is off", Role.ADMIN)
"""Whoever comes while auth is off."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: all but the key itself."""

    id: str
    name: str
    role: Role
    digest: str
    """SHA-256 of the whole key, in hexadecimal."""
    created_at: datetime
    created_by: str
    """Id of the principal that made it."""
    owner: str | None = None
    types: tuple[str, ...] = ()
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def opens_at(self, now: datetime) -> bool:
        """Whether it lets anybody in at this time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def matches(self, text: str) -> bool:
        return hmac.compare_digest(self.digest, digest_of(text))

    @property
    def principal(self) -> Principal:
        return Principal(self.id, self.name, self.role, self.owner, self.types, self.expires_at, self.id)


def new_key() -> tuple[str, str]:
    """Id and text of a new key. The text holds the id, so that finding the key needs no secret, and 256 random bits."""
    key_id = secrets.token_hex(6)
    return key_id, f"{KEY_PREFIX}{key_id}_{secrets.token_urlsafe(32)}"


def key_id_of(text: str) -> str | None:
    """The id in a key; none when this is no key that was made here."""
    found = _KEY.fullmatch(text)
    return found[1] if found else None


def digest_of(text: str) -> str:
    """How a key is kept. Its secret is random and long, so a slow hash would protect nothing that this does not."""
    return hashlib.sha256(text.encode()).hexdigest()


_actor: ContextVar[str | None] = ContextVar("actor", default=None)


def actor() -> str | None:
    """Id of the principal on whose behalf this code runs; none when the orchestrator acts by itself."""
    return _actor.get()


@contextmanager
def acting(principal: Principal) -> Iterator[None]:
    """Everything in the block, and the tasks begun in it, is done on behalf of this principal."""
    token = _actor.set(principal.id)
    try:
        yield
    finally:
        _actor.reset(token)
