"""One file that a job leaves: whole or not there, and announced."""

from pathlib import Path
from typing import Literal

from worker_image.contract.events import ArtifactSaved
from worker_image.reporter import RunContext
from worker_image.sae.files import draft_of, put, settle, sha256_of

Kind = Literal["sae", "config", "metrics", "report", "file"]


def announce(run: RunContext, path: Path, kind: Kind) -> None:
    """Tell of a file that is on disk, below the run's artifacts."""
    run.emit(
        ArtifactSaved,
        path=str(path.relative_to(run.artifacts)),
        kind=kind,
        size_bytes=path.stat().st_size,
        digest=f"sha256:{sha256_of(path)}",
    )
    run.log(f"artifact {path} saved")


def keep(run: RunContext, name: str, kind: Kind, content: bytes) -> None:
    """Leave a file with this content."""
    path = run.artifacts / name
    put(path, content)
    announce(run, path, kind)


def keep_draft(run: RunContext, name: str, kind: Kind) -> None:
    """Leave what was written to ``draft_of`` the file."""
    path = run.artifacts / name
    settle(draft_of(path), path)
    announce(run, path, kind)
