"""One file that a job leaves: whole or not there, and announced."""

from pathlib import Path

from worker_image.contract.events import ArtifactSaved
from worker_image.reporter import RunContext
from worker_image.sae.files import settle, sha256_of


def keep(run: RunContext, draft: Path, name: str, kind: str) -> None:
    """Put ``draft``, which lies beside it, in its place under ``name``, and announce it."""
    path = run.artifacts / name
    settle(draft, path)
    run.emit(ArtifactSaved, path=name, kind=kind, size_bytes=path.stat().st_size, digest=f"sha256:{sha256_of(path)}")
    run.log(f"artifact {path} saved")


def keep_text(run: RunContext, name: str, kind: str, text: str) -> None:
    """A file with this text."""
    draft = run.artifacts / f".{name}.draft"
    draft.write_text(text)
    keep(run, draft, name, kind)
