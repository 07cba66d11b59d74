"""Requests that were kept by their idempotency keys, and what each of them made."""

import sqlite3
from dataclasses import dataclass
from uuid import UUID

from orchestrator.errors import IdempotencyConflict
from orchestrator.store.database import Session


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that may come again."""

    key: str
    """The one that its sender made up for it."""
    digest: str
    """Of all that it asks."""

    def made_before(self, session: Session) -> UUID | None:
        """The sweep or pipeline that it made, if it came before.

        Raises:
            IdempotencyConflict: its key came with a different request.
        """
        row = session.one("batch_submission", key=self.key)
        return None if row is None else UUID(self.check(row)["made"])

    def keep(self, session: Session, made: UUID) -> None:
        """Remember the sweep or pipeline that it made, within the transaction that makes it."""
        session.run("insert_batch_submission", key=self.key, digest=self.digest, made=str(made))

    def check(self, row: sqlite3.Row) -> sqlite3.Row:
        """The row of this key. Raises: IdempotencyConflict: it is of a different request."""
        if row["request_digest"] != self.digest:
            raise IdempotencyConflict(field="Idempotency-Key", suggestion="use a new key for a new request")
        return row
