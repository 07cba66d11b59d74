"""Autoencoders that earlier jobs left: what ``job:<id>`` means where a job asks for one."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

from orchestrator.domain import TERMINAL, Artifact
from orchestrator.errors import InvalidInput, NotFound
from orchestrator.store import Store
from worker_image.contract.job_type import JobType
from worker_image.contract.jobs import JOB_TYPES
from worker_image.contract.rundir import RunDir

_REFERENCE = re.compile(r"job:([^/]+)(?:/(?:artifacts(?:/|$))?(.*))?")

Reach = Callable[[str, str], bool]
"""Whether somebody may see jobs of this owner and type."""


def reach_of(owner: str) -> Reach:
    """What jobs that nobody submits in person may see: their owner's."""
    return lambda other, _type: other == owner


def reference_to(artifact: Artifact) -> str | None:
    """What names the autoencoder that this is the file of; none when it is of none."""
    if artifact.kind != "sae":
        return None
    folder = str(PurePosixPath(artifact.path).parent)
    return f"job:{artifact.job_id}" + (f"/{folder}" if folder != "." else "")


class Shelf:
    """What is on it for somebody."""

    def __init__(self, store: Store, home: Path, covers: Reach) -> None:
        self._store, self._home, self._covers = store, home, covers

    async def fetch(self, type_name: str, several: Iterable[Mapping[str, Any]]) -> dict[str, Path]:
        """``job:...`` -> the folder of its autoencoder, for whatever these parameters of one type name so.

        Raises:
            InvalidInput: naming the field at fault and what to do.
        """
        job_type: type[JobType] | None = JOB_TYPES.get(type_name.replace("-", "_"))
        fields = [name for name, kind in job_type.references().items() if kind == "sae"] if job_type else []
        found: dict[str, Path] = {}
        for params in several:
            for field in fields:
                value = params.get(field)
                if isinstance(value, str) and value.startswith("job:") and value not in found:
                    found[value] = await self._folder(f"params.{field}", value)
        return found

    async def _folder(self, field: str, value: str) -> Path:
        parts = _REFERENCE.fullmatch(value)
        try:
            if parts is None:
                raise ValueError(value)
            job = await self._store.job(UUID(parts[1]))
            # Whose it is must not be told to those it is kept from.
            if not self._covers(job.owner, job.type):
                raise NotFound(value)
        except (ValueError, NotFound):
            raise InvalidInput(
                f"{field}: {value!r} names no job", field=field, suggestion="write job: and the whole id of a training"
            ) from None
        if job.status not in TERMINAL:
            raise InvalidInput(
                f"{field}: job {job.id} has not ended", field=field, suggestion="submit this once it has, or a pipeline"
            )
        if job.purging_at is not None:
            raise InvalidInput(
                f"{field}: job {job.id} is being purged", field=field, suggestion="name one that is kept"
            )
        artifacts = [item for item in await self._store.artifacts(job.id) if item.kind == "sae"]
        newest = max((item.attempt for item in artifacts), default=0)
        there = {str(PurePosixPath(item.path).parent) for item in artifacts if item.attempt == newest}
        wanted = (parts[2] or "").strip("/") or "."
        if wanted not in there:
            several = ", ".join(f"job:{job.id}/{folder}" for folder in sorted(there - {"."}))
            raise InvalidInput(
                f"{field}: {value!r} holds no autoencoder",
                field=field,
                suggestion=f"there are: {several}" if several else "name a training that has completed",
            )
        return RunDir.of(self._home, job.id, newest).artifacts / wanted
