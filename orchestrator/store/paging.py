"""Pages of jobs: the order they come in, and where one ends and the next begins."""

import base64
import binascii
import struct
from dataclasses import dataclass
from typing import Final, Literal, Self
from uuid import UUID

from orchestrator.domain import Job
from orchestrator.errors import InvalidInput

Sort = Literal[
    "-created_at",
    "created_at",
    "-started_at",
    "started_at",
    "-completed_at",
    "completed_at",
    "-priority",
    "priority",
    "name",
    "-name",
]
"""What jobs are ordered by; with a minus, the greatest or newest comes first."""

NEWEST_FIRST: Final[Sort] = "-created_at"
WITH_CURSOR: Final[tuple[Sort, ...]] = (NEWEST_FIRST, "created_at")
"""Orders whose pages can be told apart by a cursor."""

_FORM = struct.Struct(">d16s")


def order(sort: Sort) -> str:
    """The clause for it, made of fixed texts. Jobs that have no such time, or share it, come newest first."""
    column, downwards = sort.removeprefix("-"), sort.startswith("-")
    direction = "DESC" if downwards else "ASC"
    if column == "created_at":
        return f"created_at {direction}, id {direction}"
    return f"{column} {direction} NULLS LAST, created_at DESC, id DESC"


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last job of a page. What comes after it stays the same, however many jobs are submitted meanwhile."""

    created_at: float
    """Seconds since the epoch."""
    job_id: UUID

    @classmethod
    def after(cls, job: Job) -> Self:
        return cls(job.created_at.timestamp(), job.id)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises: InvalidInput."""
        try:
            created_at, job_id = _FORM.unpack(base64.urlsafe_b64decode(text))
        except (binascii.Error, struct.error, ValueError) as error:
            raise InvalidInput(
                "cursor: this is none", field="cursor", suggestion="pass next_cursor of the page before, unchanged"
            ) from error
        return cls(created_at, UUID(bytes=job_id))

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(_FORM.pack(self.created_at, self.job_id.bytes)).decode()


def beyond(sort: Sort) -> str:
    """The clause for what comes after a cursor (``:cursor_time``, ``:cursor_id``).

    Raises:
        InvalidInput: pages of this order are told apart by offset only.
    """
    if sort not in WITH_CURSOR:
        raise InvalidInput(
            f"cursor: pages sorted by {sort} have none", field="cursor", suggestion="use offset, or sort by created_at"
        )
    return f"(created_at, id) {'<' if sort == NEWEST_FIRST else '>'} (:cursor_time, :cursor_id)"
