"""Models and datasets on disk, and what a job's reference to one means."""

import difflib
import glob
import json
import math
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import InvalidInput
from orchestrator.settings import Settings
from worker_image.contract.model_shape import ModelShape

DATASET_SUFFIXES = (".jsonl", ".txt", ".parquet", ".arrow")
_SAVED_BY_DATASETS = ("dataset_dict.json", "state.json")
"""A directory that holds one of these is one dataset."""
_SAE_FILES = ("sae.safetensors", "sae_weights.safetensors", "ae.pt")
"""A folder that holds one of these is an autoencoder's."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(/[^/]+)*")
"""Of a dataset, perhaps with a path or pattern inside behind it."""
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_WIDTH_KEYS = ("hidden_size", "n_embd", "d_model")
_LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model directory, a dataset's file or its directory."""

    name: str
    path: Path
    size_bytes: int
    modified_at: datetime
    detail: dict[str, Any]


class Inventory:
    """What lies under ``<home>/models``, ``<home>/datasets``, ``<home>/saes`` and the allowed roots. Blocking."""

    def __init__(self, settings: Settings) -> None:
        self._models, self._datasets, self._saes = settings.models, settings.datasets, settings.saes
        self._roots = settings.roots

    def models(self) -> list[Entry]:
        """Directories with a ``config.json``, up to two levels down (``name`` or ``organisation/name``)."""
        top = [config for config in self._models.glob("*/config.json") if _is_model(config)]
        inside = {config.parent for config in top}
        # A model directory may hold further configurations, of its pooling layer for one: those are no models.
        nested = [path for path in self._models.glob("*/*/config.json") if path.parent.parent not in inside]
        return [_model(config, self._models) for config in sorted([*top, *filter(_is_model, nested)])]

    def datasets(self) -> list[Entry]:
        """Files of texts, and directories that ``datasets`` saved."""
        found, saved = [], set[Path]()
        for path in sorted(self._datasets.rglob("*")):
            if saved.intersection(path.parents):
                continue
            if path.is_dir() and any((path / name).is_file() for name in _SAVED_BY_DATASETS):
                saved.add(path)
                found.append(_entry(path, self._datasets, {"format": "datasets"}))
            elif path.suffix in DATASET_SUFFIXES and path.is_file():
                found.append(_entry(path, self._datasets, {"format": path.suffix[1:]}))
        return found

    def saes(self) -> list[Entry]:
        """Folders of autoencoders, in whatever format."""
        found = {path.parent for name in _SAE_FILES for path in self._saes.rglob(name) if path.is_file()}
        return [_entry(path, self._saes, {}) for path in sorted(found - {self._saes})]

    def resolve(self, kind: str, field: str, value: str, *, network: bool, also: tuple[Path, ...] = ()) -> str:
        """The absolute path ``value`` names, or ``value`` itself when it can only be a hub id and may be fetched.

        Of a dataset it may be a pattern too, which is given back with an absolute path before it.

        ``also`` are directories that may be read beside the allowed roots.

        Raises:
            InvalidInput: it names nothing, or something outside the allowed roots; ``field`` is at fault.
        """
        folder = {"model": self._models, "dataset": self._datasets, "sae": self._saes}[kind]
        suffixes = DATASET_SUFFIXES if kind == "dataset" else ()
        found = self._locate(folder, field, value, suffixes=suffixes, roots=(*self._roots, *also))
        if found is None:
            on_hub = kind == "model" or (kind == "dataset" and _HUB_ID.fullmatch(value))
            may_fetch = network and on_hub and not value.startswith(("/", "."))
            is_pattern = kind == "dataset" and glob.has_magic(value)
            if is_pattern and not (may_fetch and not glob.glob(str(folder / value), recursive=True)):
                return self._pattern(folder, field, value, roots=(*self._roots, *also))
            if may_fetch:
                return value
            raise self._missing(kind, field, value, folder)
        if kind == "model" and not (found / "config.json").is_file():
            raise InvalidInput(
                f"{field}: {value!r} is not a model directory: it has no config.json",
                field=field,
                suggestion="name a Hugging Face model directory (config.json, weights, tokenizer)",
            )
        if kind == "dataset":
            _check_dataset(found, field, value)
        if kind == "sae" and not any((found / name).is_file() for name in _SAE_FILES):
            raise InvalidInput(
                f"{field}: {value!r} is not the folder of an autoencoder: it has none of {', '.join(_SAE_FILES)}",
                field=field,
                suggestion="name the folder that holds these files",
            )
        return str(found)

    def _locate(
        self, folder: Path, field: str, value: str, *, suffixes: tuple[str, ...], roots: tuple[Path, ...]
    ) -> Path | None:
        if "\0" in value:
            raise InvalidInput(f"{field}: a path cannot hold a NUL character", field=field, suggestion="remove it")
        for candidate in (folder / value, *(folder / (value + suffix) for suffix in suffixes)):
            real = candidate.resolve()
            if not any(real.is_relative_to(root.resolve()) for root in roots):
                raise InvalidInput(
                    f"{field}: {value!r} lies outside the directories jobs may read",
                    field=field,
                    suggestion=f"put it under {folder}, or add its directory to SAEFORGE_ALLOWED_ROOTS",
                )
            if _exists(candidate):
                return real
        return None

    def _pattern(self, folder: Path, field: str, value: str, *, roots: tuple[Path, ...]) -> str:
        """The pattern behind the real path of the directory it begins in."""
        base = plain_part(str(folder / value))
        pattern = Path(str(folder / value)).relative_to(base)
        if ".." in pattern.parts or self._locate(base, field, ".", suffixes=(), roots=roots) is None:
            raise self._missing("dataset", field, value, folder)
        found = base.resolve() / pattern
        matches = [path for path in glob.iglob(str(found), recursive=True) if Path(path).is_file()]
        if not matches:
            raise InvalidInput(
                f"{field}: no file matches {value!r}", field=field, suggestion=f"put files under {folder}"
            )
        if unknown := next((path for path in matches if Path(path).suffix not in DATASET_SUFFIXES), None):
            raise InvalidInput(
                f"{field}: {value!r} matches {unknown}, which is none of {', '.join(DATASET_SUFFIXES)}",
                field=field,
                suggestion="write the pattern so that it matches the files of the dataset alone",
            )
        return str(found)

    def _missing(self, kind: str, field: str, value: str, folder: Path) -> InvalidInput:
        entries = {"model": self.models, "dataset": self.datasets, "sae": self.saes}[kind]()
        names = [entry.name for entry in entries]
        stems = {Path(name).stem: name for name in names}
        close = [stems[stem] for stem in difflib.get_close_matches(Path(value).stem, stems, n=1, cutoff=0.7)]
        if close:
            suggestion = f"did you mean {close[0]!r}?"
        elif names:
            suggestion = f"there are: {', '.join(names[:10])}"
        else:
            suggestion = f"put one under {folder}"
        elsewhere = "a training's write job: and its id" if kind == "sae" else "a hub id set network to true"
        suggestion += f"; for {elsewhere}"
        return InvalidInput(f"{field}: there is no {kind} {value!r}", field=field, suggestion=suggestion)


def plain_part(path: str) -> Path:
    """``path`` as far as it is no pattern: what has to be mounted for the files it matches to be seen."""
    whole = Path(path)
    if not glob.has_magic(path) or _exists(whole):
        return whole
    return next(parent for parent in whole.parents if not glob.has_magic(str(parent)))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for any file, or below a directory nobody here may enter
        return False


def model_shape(model: str) -> ModelShape:
    """Read off the configuration in the model's directory, and the headers of its weights."""
    folder = Path(model)
    return ModelShape.of(_config(folder / "config.json"), _counted(folder))


def _counted(folder: Path) -> int | None:
    """Numbers in the model's weights, from the headers of the files alone; none where those cannot be read."""
    index = _config(folder / "model.safetensors.index.json").get("weight_map")
    # A directory may hold the same weights in another layout too.
    names = sorted(set(index.values())) if isinstance(index, dict) else ["model.safetensors"]
    try:
        return sum(_numbers(folder / name) for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _numbers(file: Path) -> int:
    """Of one safetensors file: eight bytes tell the length of the JSON that describes the tensors."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > _LONGEST_HEADER:
            raise ValueError(f"{file} is no safetensors file")
        header = json.loads(stream.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _check_dataset(path: Path, field: str, value: str) -> None:
    if path.is_dir():
        if not any(file.suffix in DATASET_SUFFIXES for file in path.rglob("*")):
            raise InvalidInput(
                f"{field}: {value!r} is a directory without {', '.join(DATASET_SUFFIXES)} files",
                field=field,
                suggestion="name one that holds the files of a dataset",
            )
        return
    if not path.is_file() or path.suffix not in DATASET_SUFFIXES:
        raise InvalidInput(
            f"{field}: {value!r} is none of {', '.join(DATASET_SUFFIXES)} files",
            field=field,
            suggestion='write the texts one a line as {"text": ...} into a .jsonl file, or as plain text into a .txt',
        )
    if not os.access(path, os.R_OK):
        raise InvalidInput(
            f"{field}: {value!r} cannot be read", field=field, suggestion=f"give the orchestrator read access to {path}"
        )
    if path.stat().st_size == 0:
        raise InvalidInput(f"{field}: {value!r} is empty", field=field, suggestion="name a dataset with text in it")


def _model(config: Path, folder: Path) -> Entry:
    content = _config(config)
    detail = {
        "architecture": next(iter(content.get("architectures") or []), content.get("model_type")),
        "layers": _first(content, _LAYER_KEYS),
        "d_model": _first(content, _WIDTH_KEYS),
    }
    return _entry(config.parent, folder, detail)


def _is_model(config: Path) -> bool:
    content = _config(config)
    return "model_type" in content or "architectures" in content


def _config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _first(content: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((content[key] for key in keys if key in content), None)


def _entry(path: Path, folder: Path, detail: dict[str, Any]) -> Entry:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    stats = [file.stat() for file in files]
    return Entry(
        name=str(path.relative_to(folder)),
        path=path,
        size_bytes=sum(stat.st_size for stat in stats),
        modified_at=datetime.fromtimestamp(max((stat.st_mtime for stat in stats), default=0), UTC),
        detail=detail,
    )
