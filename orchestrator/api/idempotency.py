"""Requests that may be repeated: told apart by their ``Idempotency-Key`` and by what they ask."""

import hashlib
from typing import Annotated

from fastapi import Header

from orchestrator.access import Principal
from orchestrator.store.submissions import Asked

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Repeating a request with the same key answers with what it made the first time.",
    ),
]


def asked(who: Principal, key: str | None, *what: str) -> Asked | None:
    """A request by its key and all that it asks; none without a key."""
    if key is None:
        return None
    if who.owner is not None:
        # What another owner submitted is not to be found by guessing its key.
        key = f"{who.owner}: {key}"
    return Asked(key, hashlib.sha256("\n".join(what).encode()).hexdigest())
