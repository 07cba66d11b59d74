"""Artifacts on their way to a folder here: which are meant, where each belongs, and whether it arrived whole."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from orchestrator.errors import InvalidInput, NotFound
from orchestrator.streams import UnexpectedAnswer
from orchestrator.views import ArtifactView

_DIGEST = "sha256"


@dataclass(frozen=True, slots=True)
class Pulled:
    """An artifact and where it belongs."""

    artifact: ArtifactView
    file: Path

    @classmethod
    def into(cls, folder: Path, artifact: ArtifactView) -> Self:
        """Raises: UnexpectedAnswer: its name leads out of the folder."""
        path = PurePosixPath(artifact.path)
        if path.is_absolute() or not path.parts or ".." in path.parts:
            raise UnexpectedAnswer(f"{artifact.path!r} is no name of an artifact")
        return cls(artifact, folder.joinpath(*path.parts))

    @property
    def draft(self) -> Path:
        """Where it grows until it is whole. What was begun of other bytes is never continued with these."""
        return self.file.with_name(f"{self.file.name}.{self.artifact.digest.partition(':')[2][:12]}.part")

    @property
    def is_here(self) -> bool:
        """Whether the very same file lies there already. Reads it."""
        return self.file.is_file() and digest_of(self.file) == self.artifact.digest

    def settle(self) -> None:
        """Put it in its place, once it is whole.

        Raises:
            UnexpectedAnswer: what arrived is something else than what the job left. It is deleted.
        """
        if digest_of(self.draft) != self.artifact.digest:
            self.draft.unlink()
            raise UnexpectedAnswer(
                f"{self.artifact.path} did not arrive as the job left it",
                suggestion="try again; if the job still runs, it may have written a newer one",
            )
        self.draft.replace(self.file)


def chosen(artifacts: Sequence[ArtifactView], names: Iterable[str]) -> list[ArtifactView]:
    """Those that are named, by their own names or their folder's, or all; of one name, the newest attempt's.

    Args:
        artifacts: the newest attempt's first.

    Raises:
        NotFound: nothing has such a name.
    """
    newest: dict[str, ArtifactView] = {}
    for artifact in artifacts:
        newest.setdefault(artifact.path, artifact)
    wanted = [str(PurePosixPath(name)) for name in names]
    for name in wanted:
        if not any(_is_meant(path, name) for path in newest):
            there = ", ".join(newest) or "it left none so far"
            raise NotFound(f"there is no artifact {name!r}", field="name", suggestion=f"there is: {there}")
    return [
        artifact for path, artifact in newest.items() if not wanted or any(_is_meant(path, name) for name in wanted)
    ]


def _is_meant(path: str, name: str) -> bool:
    return PurePosixPath(path).is_relative_to(name)


def refuse_to_overwrite(pulled: Iterable[Pulled]) -> None:
    """Raise where another file lies in the place of one of them.

    Raises:
        InvalidInput: naming the file.
    """
    for each in pulled:
        if each.file.exists() and not each.is_here:
            raise InvalidInput(
                f"{each.file} is there already, and is another file",
                field="force",
                suggestion="pull into another folder (-o), or overwrite it (--force)",
            )


def digest_of(file: Path) -> str:
    """As artifacts are told apart. Reads all of the file."""
    with file.open("rb") as opened:
        return f"{_DIGEST}:{hashlib.file_digest(opened, _DIGEST).hexdigest()}"
