"""The API keys in force. All of them are in memory, so letting a request in costs no query."""

import asyncio
import logging
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime

from orchestrator.access import ApiKey, Principal, Role, actor, digest_of, key_id_of, new_key
from orchestrator.errors import InvalidInput, NotFound, OrchestratorError
from orchestrator.revocations import Revocations
from orchestrator.store import Store

logger = logging.getLogger(__name__)

FLUSH_S = 60.0
"""How long after a key was used that is on disk at the latest."""


class KeyRing:
    """Makes keys, finds them again, and takes them back."""

    def __init__(self, store: Store, keys: list[ApiKey], revocations: Revocations) -> None:
        self._store, self._revocations = store, revocations
        self._keys = {key.id: key for key in keys}
        self._used: dict[str, datetime] = {}
        self._in_use = asyncio.Event()

    @classmethod
    async def open(cls, store: Store, revocations: Revocations) -> "KeyRing":
        """The keys of a store, without those that were revoked before an older copy of it was put back."""
        keys = await store.keys.all()
        revoked = await asyncio.to_thread(revocations.read)
        for key in keys:
            if key.id in revoked and key.revoked_at is None:
                logger.warning("the key %s (%r) was revoked before, and stays so", key.id, key.name)
                await store.keys.revoke(key.id)
        keys = await store.keys.all()
        ring = cls(store, keys, revocations)
        await ring._remember([key.id for key in keys if key.revoked_at is not None])
        return ring

    def find(self, text: str) -> Principal | None:
        """Who holds this key; none unless it is one in force."""
        key = self._keys.get(key_id_of(text) or "")
        now = datetime.now(UTC)
        if key is None or not key.matches(text) or not key.opens_at(now):
            return None
        self._used[key.id] = now
        self._in_use.set()
        return key.principal

    def in_force(self, key_id: str) -> bool:
        key = self._keys.get(key_id)
        return key is not None and key.opens_at(datetime.now(UTC))

    def all(self) -> list[ApiKey]:
        """Every key there ever was, newest first."""
        keys = [replace(key, last_used_at=self._used.get(key.id, key.last_used_at)) for key in self._keys.values()]
        return sorted(keys, key=lambda key: key.created_at, reverse=True)

    async def make(
        self,
        *,
        name: str,
        role: Role,
        by: Principal,
        owner: str | None = None,
        types: tuple[str, ...] = (),
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key, and its text, which nobody can tell again.

        Raises:
            InvalidInput: an admin key with a scope, or one that has expired already.
        """
        if role is Role.ADMIN and (owner is not None or types):
            field = "owner" if owner is not None else "types"
            raise InvalidInput(
                f"{field}: an admin key manages the keys of all, so it has no scope",
                field=field,
                suggestion="make a write key instead",
            )
        now = datetime.now(UTC)
        if expires_at is not None and expires_at <= now:
            raise InvalidInput("expires_at: is in the past", field="expires_at", suggestion="give a later time")
        key_id, text = new_key()
        key = ApiKey(
            id=key_id,
            name=name,
            role=role,
            digest=digest_of(text),
            created_at=now,
            created_by=by.id,
            owner=owner,
            types=types,
            expires_at=expires_at,
        )
        await self._store.keys.add(key)
        self._keys[key_id] = key
        logger.info("%s made the %s key %s (%r)", by.id, role, key_id, name)
        return key, text

    async def revoke(self, key_id: str) -> ApiKey:
        """Take a key back for good; nothing if it was. Raises: NotFound."""
        key = self._keys.get(key_id)
        if key is None:
            raise NotFound(
                f"there is no key {key_id!r}", field="id", suggestion="GET /api/keys lists the keys there are"
            )
        if key.revoked_at is None:
            await self._store.keys.revoke(key_id)
            await self._remember([key_id])
            key = self._keys[key_id] = replace(key, revoked_at=datetime.now(UTC))
            logger.info("%s revoked the key %s (%r)", actor(), key_id, key.name)
        return key

    async def _remember(self, key_ids: list[str]) -> None:
        try:
            await asyncio.to_thread(self._revocations.add, key_ids)
        except OSError as error:
            # It is revoked all the same, and the next start tries again.
            logger.error("that keys were revoked cannot be written beside the database: %s", error)

    async def keep_use(self) -> None:
        """Write down now and then when keys were used. Cancelling it writes what is left."""
        try:
            while True:
                await self._in_use.wait()
                await asyncio.sleep(FLUSH_S)
                try:
                    await self._flush()
                except (OrchestratorError, sqlite3.Error) as error:
                    logger.warning("when keys were used last cannot be written down: %s", error)
        finally:
            await self._flush()

    async def _flush(self) -> None:
        used, self._used = self._used, {}
        self._in_use.clear()
        if used:
            for key_id, when in used.items():
                self._keys[key_id] = replace(self._keys[key_id], last_used_at=when)
            await self._store.keys.touch(used)
