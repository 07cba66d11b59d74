"""API keys as they are kept."""

import json
import time
from collections.abc import Mapping
from datetime import datetime

from orchestrator.access import ApiKey, Role
from orchestrator.store.database import Database
from orchestrator.store.rows import moment, moment_or_none


class Keys:
    """The table of API keys."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def add(self, key: ApiKey) -> None:
        async with self._db.transaction():
            await self._db.run(
                "insert_key",
                id=key.id,
                name=key.name,
                role=key.role,
                owner=key.owner,
                types=json.dumps(key.types),
                digest=key.digest,
                created_at=key.created_at.timestamp(),
                created_by=key.created_by,
                expires_at=key.expires_at.timestamp() if key.expires_at else None,
            )

    async def all(self) -> list[ApiKey]:
        """Every key, revoked and expired ones too, newest first."""
        return [
            ApiKey(
                id=row["id"],
                name=row["name"],
                role=Role(row["role"]),
                owner=row["owner"],
                types=tuple(json.loads(row["types"])),
                digest=row["digest"],
                created_at=moment(row["created_at"]),
                created_by=row["created_by"],
                expires_at=moment_or_none(row["expires_at"]),
                revoked_at=moment_or_none(row["revoked_at"]),
                last_used_at=moment_or_none(row["last_used_at"]),
            )
            for row in await self._db.all("keys")
        ]

    async def revoke(self, key_id: str) -> None:
        """Nothing if it was revoked before."""
        async with self._db.transaction():
            await self._db.run("revoke_key", id=key_id, now=time.time())

    async def touch(self, used: Mapping[str, datetime]) -> None:
        """Keep when each of these keys was used last."""
        async with self._db.transaction():
            for key_id, when in used.items():
                await self._db.run("touch_key", id=key_id, used=when.timestamp())
