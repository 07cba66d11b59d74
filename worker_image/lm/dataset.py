"""A dataset: one file, a directory of them, a pattern, what ``datasets`` saved, or a hub id, read as one long text."""

import glob
import json
from collections.abc import Iterator
from pathlib import Path

from worker_image.errors import UserError
from worker_image.lm.documents import FIRST, TEXT_SUFFIXES, Document, DocumentSource, Mark, TextFile
from worker_image.lm.splits import files_inside, training_files
from worker_image.lm.tables import TABLE_SUFFIXES, Table

SUFFIXES = (*TEXT_SUFFIXES, *TABLE_SUFFIXES)
_ON_HUB = (".parquet", ".jsonl")
_CARD = "README.md"
_CHECKED_BYTES = 256 * 2**20
"""What ``check`` reads; a few seconds' worth."""


class Dataset:
    """Documents of all files, one file after the other in the order of their names."""

    def __init__(self, name: str, paths: list[Path], text_field: str) -> None:
        """
        Raises:
            UserError: there is no file, or one cannot be read or is of no known kind.
        """
        self.name = name
        """What the user called it, for messages."""
        self.text_field = text_field
        self.paths = tuple(paths)
        self.size_bytes = sum(_size(path) for path in paths)
        self._sources = [_source(path, text_field) for path in paths]
        if self.size_bytes == 0:
            raise UserError("dataset", f"{name} is empty", "name a file that holds text")

    @property
    def text_bytes(self) -> int:
        """About how many bytes of text there are: more than there are tokens."""
        return sum(source.text_bytes for source in self._sources)

    def check(self) -> None:
        """Parse the first 256 MiB, so that a broken line is known at once and not after an hour of training.

        Raises:
            UserError: naming ``dataset`` or ``text_field``, the file and the line.
        """
        for source in self._sources:
            source.check()
        parsed = 0
        for document in self.read():
            parsed += len(document.text)
            if parsed > _CHECKED_BYTES:
                return

    def read(self, start: Mark = FIRST) -> Iterator[Document]:
        """Documents from ``start`` to the end. Raises as ``check`` does."""
        for index in range(start.file, len(self._sources)):
            for document in self._sources[index].read(start):
                yield document
                start = document.end
            start = Mark(document=start.document, file=index + 1)


def open_dataset(reference: str, text_field: str, *, network: bool = False) -> Dataset:
    """The dataset at a path or a pattern of paths, or of a hub id where there is a network.

    Raises:
        UserError: there is none, or none that can be read.
    """
    path = Path(reference)
    if network and _is_on_hub(reference):
        return Dataset(reference, _snapshot(reference), text_field)
    if _is_pattern(reference) and not path.exists():
        found = [Path(name) for name in sorted(glob.glob(reference, recursive=True))]
        paths = [file for file in found if file.is_file()]
        if not paths:
            raise UserError("dataset", f"no file matches {reference}", "put files there or name others")
        return Dataset(reference, paths, text_field)
    if path.is_dir():
        return Dataset(reference, _files_of(path), text_field)
    return Dataset(reference, [path], text_field)


def _is_on_hub(reference: str) -> bool:
    """Whether it can only be meant so: ``owner/name``, perhaps with a path or pattern inside behind it."""
    is_here = Path(reference).is_absolute() or Path(reference).exists() or bool(glob.glob(reference, recursive=True))
    return "/" in reference and not is_here and not reference.startswith(".")


def _is_pattern(reference: str) -> bool:
    return glob.has_magic(reference)


def _size(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return file.seek(0, 2)
    except FileNotFoundError:
        raise UserError("dataset", f"{path} does not exist", "put the file there or name another") from None
    except OSError as error:
        raise UserError("dataset", f"{path} cannot be read: {error.strerror}", "make it a readable file") from None


def _source(path: Path, text_field: str) -> DocumentSource:
    if path.suffix in TEXT_SUFFIXES:
        return TextFile(path, text_field)
    if path.suffix in TABLE_SUFFIXES:
        return Table(path, text_field)
    raise UserError(
        "dataset", f"{path} is none of {', '.join(SUFFIXES)}", "convert it to one of them, e.g. a .jsonl file"
    )


def _files_of(folder: Path) -> list[Path]:
    """Files of a directory: those that ``datasets`` lists in what it saved, or all of a known kind."""
    if (folder / "dataset_dict.json").is_file():
        splits = _listed(folder / "dataset_dict.json", "splits")
        if "train" not in splits:
            raise UserError(
                "dataset", f"{folder} holds the splits {', '.join(splits)}", f"name one: {folder}/{splits[0]}"
            )
        return _files_of(folder / "train")
    if (folder / "state.json").is_file():
        return [folder / name for name in _listed(folder / "state.json", "_data_files", "filename")]
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES and path.is_file()]
    shown = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not shown:
        raise UserError("dataset", f"{folder} holds none of {', '.join(SUFFIXES)}", "name a directory with such files")
    return shown


def _listed(path: Path, key: str, inner: str | None = None) -> list[str]:
    try:
        values = json.loads(path.read_bytes())[key]
        return [str(value[inner]) if inner else str(value) for value in values]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError("dataset", f"{path} is not what datasets saves: {error!r}", "save the dataset again") from None


def _snapshot(reference: str) -> list[Path]:
    """Files of a dataset on the hub, fetched: those at a path inside it where one is named, or those for training."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    owner, name, *rest = reference.split("/", 2)
    repository, inside = f"{owner}/{name}", rest[0] if rest else None
    wanted = [inside, f"{inside}/*"] if inside else [*(f"*{suffix}" for suffix in _ON_HUB), _CARD]
    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            "dataset", f"{repository} cannot be fetched from the hub: {error}", "check its name, and access to the hub"
        ) from error
    files = sorted(path for path in folder.rglob("*") if path.suffix in _ON_HUB)
    names = [path.relative_to(folder).as_posix() for path in files]
    if inside:
        names = files_inside(repository, names, inside)
    elif names:
        names = training_files(repository, folder / _CARD, names)
    else:
        raise UserError("dataset", f"{repository} holds no .parquet or .jsonl files", "fetch and convert it yourself")
    return [folder / name for name in names]
