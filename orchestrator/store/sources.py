"""Whose files a job reads: those of the jobs that its inputs and its checkpoint come from."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from orchestrator.domain import Job
from orchestrator.errors import StateConflict
from orchestrator.store.database import Session

_RUN = re.compile(
    r"/(?P<job>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?=/|$)(?:/(?P<attempt>\d{1,9})/checkpoints/(?P<name>[^/]+))?"
)
_REFERENCE = re.compile(r"job:([0-9a-f-]{36})(?:/|$)")


@dataclass(frozen=True, slots=True)
class Source:
    """A file or directory that a job reads, and the job in whose run directory it lies."""

    job_id: str
    path: str
    attempt: int | None = None
    """With ``checkpoint``: the attempt that wrote it."""
    checkpoint: str | None = None


def sources_of(job: Job) -> list[Source]:
    """What it reads of others, by the ids in its paths: links and mounts may stand before them, and nothing after."""
    paths = [*(job.inputs or {}).values(), *([job.resume_from] if job.resume_from else [])]
    found = (source for path in paths for source in _in(path))
    return list(dict.fromkeys(source for source in found if source.job_id != str(job.id)))


def _in(path: str) -> Iterator[Source]:
    for run in _RUN.finditer(path):
        yield Source(run["job"], path, int(run["attempt"]) if run["attempt"] else None, run["name"])


def keep_sources(session: Session, job_id: UUID, sources: Sequence[Source]) -> None:
    rows: list[dict[str, object]] = [
        {"job_id": str(job_id), "source": source.job_id, "path": source.path} for source in sources
    ]
    if rows:
        session.run_each("insert_source", rows)


def jobs_named_by(job: Job) -> set[str]:
    """Ids of the jobs that its parameters name."""
    named = {getattr(job.params, field) for field in job.params.references()}
    return {reference[1] for text in named if isinstance(text, str) and (reference := _REFERENCE.match(text))}


@dataclass(frozen=True, slots=True)
class Needs:
    """What there has to be of other jobs for a new one to come into being."""

    sources: tuple[Source, ...]
    named: frozenset[str]
    """Jobs that its parameters name."""
    restarted_from: str | None
    resume_from: str | None

    @classmethod
    def of(cls, job: Job) -> "Needs":
        before = str(job.restarted_from) if job.restarted_from else None
        return cls(tuple(sources_of(job)), frozenset(jobs_named_by(job)), before, job.resume_from)

    def require(self, session: Session) -> None:
        """Raise where something of it is on its way out, or gone since it was looked up.

        Raises:
            StateConflict: naming the job or the checkpoint.
        """
        jobs = self.named | {source.job_id for source in self.sources}
        for job_id in sorted(jobs | ({self.restarted_from} if self.restarted_from else set())):
            row = session.one("purging", id=job_id)
            if row is None and job_id in self.named:
                raise StateConflict(f"job {job_id} has been purged", suggestion="name one that is kept")
            if row is not None and row["purging_at"] is not None:
                raise StateConflict(f"job {job_id} is being purged", suggestion="choose one that is kept")
        for source in self.sources:
            if source.checkpoint is not None:
                self._require_checkpoint(session, source)

    def _require_checkpoint(self, session: Session, source: Source) -> None:
        row = session.one("checkpoint_kept", job_id=source.job_id, attempt=source.attempt, name=source.checkpoint)
        # Of an input nobody promises that it is a checkpoint that a worker told of.
        if (row is None and source.path == self.resume_from) or (row is not None and not row["kept"]):
            raise StateConflict(
                f"checkpoint {source.checkpoint} of job {source.job_id} has been deleted",
                suggestion="choose another one, or start over (fresh: true)",
            )
