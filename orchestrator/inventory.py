"""Models and datasets on disk, and what a job's reference to one means."""

import difflib
import json
import math
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import InvalidInput
from orchestrator.settings import Settings
from worker_image.contract.model_shape import ModelShape

DATASET_SUFFIXES = (".jsonl", ".txt")
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_WIDTH_KEYS = ("hidden_size", "n_embd", "d_model")
_LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model directory or a dataset file."""

    name: str
    path: Path
    size_bytes: int
    modified_at: datetime
    detail: dict[str, Any]


class Inventory:
    """What lies under ``<home>/models``, ``<home>/datasets`` and the allowed roots. Blocking."""

    def __init__(self, settings: Settings) -> None:
        self._models, self._datasets, self._roots = settings.models, settings.datasets, settings.roots

    def models(self) -> list[Entry]:
        """Directories with a ``config.json``, up to two levels down (``name`` or ``organisation/name``)."""
        top = [config for config in self._models.glob("*/config.json") if _is_model(config)]
        inside = {config.parent for config in top}
        # A model directory may hold further configurations, of its pooling layer for one: those are no models.
        nested = [path for path in self._models.glob("*/*/config.json") if path.parent.parent not in inside]
        return [_model(config, self._models) for config in sorted([*top, *filter(_is_model, nested)])]

    def datasets(self) -> list[Entry]:
        """JSONL and text files."""
        files = [path for path in sorted(self._datasets.rglob("*")) if path.suffix in DATASET_SUFFIXES]
        return [_entry(path, self._datasets, {"format": path.suffix[1:]}) for path in files if path.is_file()]

    def resolve(self, kind: str, field: str, value: str, *, network: bool, also: tuple[Path, ...] = ()) -> str:
        """The absolute path ``value`` names, or ``value`` itself when it can only be a hub id and may be fetched.

        ``also`` are directories that may be read beside the allowed roots.

        Raises:
            InvalidInput: it names nothing, or something outside the allowed roots; ``field`` is at fault.
        """
        folder = self._models if kind == "model" else self._datasets
        suffixes = () if kind == "model" else DATASET_SUFFIXES
        found = self._locate(folder, field, value, suffixes=suffixes, roots=(*self._roots, *also))
        if found is None:
            if kind == "model" and network and not value.startswith(("/", ".")):
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

    def _missing(self, kind: str, field: str, value: str, folder: Path) -> InvalidInput:
        names = [entry.name for entry in (self.models() if kind == "model" else self.datasets())]
        stems = {Path(name).stem: name for name in names}
        close = [stems[stem] for stem in difflib.get_close_matches(Path(value).stem, stems, n=1, cutoff=0.7)]
        if close:
            suggestion = f"did you mean {close[0]!r}?"
        elif names:
            suggestion = f"there are: {', '.join(names[:10])}"
        else:
            suggestion = f"put one under {folder}"
        if kind == "model":
            suggestion += "; for a hub id set network to true"
        return InvalidInput(f"{field}: there is no {kind} {value!r}", field=field, suggestion=suggestion)


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
        raise InvalidInput(
            f"{field}: {value!r} is a directory", field=field, suggestion="name the .jsonl or .txt file in it"
        )
    if not path.is_file() or path.suffix not in DATASET_SUFFIXES:
        raise InvalidInput(
            f"{field}: {value!r} is not a .jsonl or .txt file",
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
