"""What the orchestrator writes beside a run directory: enough to rebuild the job and its attempt without the database.

Two files per attempt, out of the job's own reach: what it was when it began, and how it ended.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.domain import Attempt, Job, JobStatus, Resources, RetryPolicy
from orchestrator.executors.process import FOLDER as PROCESS_FOLDER
from orchestrator.store import Ended
from worker_image.contract.rundir import RunDir, RunSpec


class Begun(BaseModel):
    """A job and its attempt as they were before the launch."""

    model_config = ConfigDict(frozen=True)

    job: Job
    attempt: Attempt


class Settled(BaseModel):
    """How an attempt ended, and what that made of its job."""

    model_config = ConfigDict(frozen=True)

    ended: Ended
    ended_at: datetime


Kind = TypeVar("Kind", bound=BaseModel)


def write_begun(run_dir: RunDir, job: Job, attempt: Attempt) -> None:
    """Repeating it changes nothing. Raises: OSError."""
    if not run_dir.begun.exists():
        _write(run_dir.begun, Begun(job=job, attempt=attempt))


def write_settled(run_dir: RunDir, ended: Ended) -> None:
    """The last one counts. Raises: OSError."""
    _write(run_dir.settled, Settled(ended=ended, ended_at=datetime.now(UTC)))


def read_begun(run_dir: RunDir) -> Begun | None:
    """What was written, or else what ``params.json`` tells; none when that is not there or not of this directory."""
    found = _read(Begun, run_dir.begun)
    if found is None and (spec := _read(RunSpec, run_dir.params)) is not None:
        found = _of_spec(spec, run_dir)
    if found is None or (str(found.job.id), str(found.attempt.number)) != (run_dir.path.parent.name, run_dir.path.name):
        return None
    return found


def read_settled(run_dir: RunDir) -> Settled | None:
    """None when the attempt has not ended, as far as is known."""
    return _read(Settled, run_dir.settled)


def _of_spec(spec: RunSpec, run_dir: RunDir) -> Begun:
    """From ``params.json`` alone, which tells no owner, no limits and no executor.

    The job can write there, so no path in it is taken for one that may be mounted, and nothing is tried again.
    """
    created_at = datetime.fromtimestamp(run_dir.params.stat().st_mtime, UTC)
    job = Job(
        id=spec.job_id,
        name=spec.name,
        params=spec.params,
        resources=Resources(),
        retry=RetryPolicy(max_retries=0),
        status=JobStatus.STARTING,
        created_at=created_at,
    )
    executor = "process" if (run_dir.path / PROCESS_FOLDER).is_dir() else "docker"
    attempt = Attempt(
        job_id=spec.job_id, number=spec.attempt, executor=executor, created_at=created_at, cpus=spec.cpus or 1.0
    )
    return Begun(job=job, attempt=attempt)


def _write(path: Path, content: BaseModel) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_text(content.model_dump_json())
    draft.replace(path)


def _read(kind: type[Kind], path: Path) -> Kind | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
