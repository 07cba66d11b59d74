"""Checkpoints: a directory of safetensors and JSON that is either whole or not there. Nothing is ever unpickled.

``step_<n>/``, or ``anomaly_<n>/`` for a look at what went wrong, holds for each SAE of the run ``sae_<i>.safetensors``
(weights) and ``training_<i>.safetensors`` (moments, counters); ``random.safetensors``; ``state.json`` (everything that
is not a tensor) and ``manifest.json`` (size and SHA-256 of the others).
"""

import errno
import hashlib
import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worker_image.sae.files import exchange, sha256_of, sync_directory
from worker_image.sae.random_state import RandomState, random_state
from worker_image.sae.tensor_file import Written, write_tensors, write_text

FORMAT = 2
Kind = Literal["step", "anomaly"]
_NAME = re.compile(r"(step|anomaly)_(\d+)")
_RANDOM, _STATE, _MANIFEST = "random.safetensors", "state.json", "manifest.json"

JsonObject = dict[str, object]


class CheckpointCorrupt(Exception):
    """The checkpoint is incomplete or not what was written."""


class CheckpointOutdated(CheckpointCorrupt):
    """The checkpoint was written in another format than this version reads."""


@dataclass(frozen=True)
class SaeState:
    """What is kept of one SAE in training; its trainer knows what each name means."""

    weights: dict[str, Tensor]
    training: dict[str, Tensor] = field(default_factory=dict)
    """Moments, counters, scalers: every other tensor that the next step depends on."""
    values: JsonObject = field(default_factory=dict)
    """What is no tensor: steps, coefficients, the state of controllers."""


@dataclass(frozen=True)
class CheckpointState:
    """All that a checkpoint holds."""

    step: int
    saes: tuple[SaeState, ...]
    loss: float | None = None
    """Training loss at that step."""
    held_out_loss: float | None = None
    """Loss on held-out tokens, where it was measured."""
    run: JsonObject = field(default_factory=dict)
    """Where the data stood, and whatever else the run needs to go on; its writer knows what it means."""
    params: JsonObject = field(default_factory=dict)
    """Parameters of the job that wrote it."""
    random: RandomState = field(default_factory=random_state)
    """Where the random generators stand: now, unless said otherwise."""
    kind: Kind = "step"

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{self.kind}_{self.step}"


@dataclass(frozen=True)
class Kept:
    """A checkpoint in a folder, as far as its keeping depends on it."""

    name: str
    step: int
    held_out_loss: float | None = None
    """Measured on held-out tokens when it was written; None where nothing was measured."""
    is_anomaly: bool = False
    """Written for a look at what went wrong, not to continue from."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that is on disk, whole and synced."""

    path: Path
    step: int
    loss: float | None
    held_out_loss: float | None
    size_bytes: int
    digest: str
    """``sha256:`` and the hex digest over the names and digests of its files."""


def save_checkpoint(folder: Path, state: CheckpointState) -> SavedCheckpoint:
    """Write ``folder/<name>``, replacing one of the same name. Tensors have to be in host memory.

    Files go to a temporary directory, are synced, and only then get their name, so whoever sees ``step_<n>`` sees
    all of it.
    """
    final = folder / state.name
    draft = folder / f".{final.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    files: dict[str, Written] = {}
    for index, sae in enumerate(state.saes):
        for name, tensors in ((_weights(index), sae.weights), (_training(index), sae.training)):
            files[name] = write_tensors(draft / name, tensors)
    files[_RANDOM] = write_tensors(draft / _RANDOM, state.random.tensors)
    said: JsonObject = {
        "format": FORMAT,
        "step": state.step,
        "loss": state.loss,
        "held_out_loss": state.held_out_loss,
        "saes": [sae.values for sae in state.saes],
        "run": state.run,
        "params": state.params,
        "random": state.random.values,
    }
    files[_STATE] = write_text(draft / _STATE, json.dumps(said))
    described = {name: {"size_bytes": file.size_bytes, "sha256": file.sha256} for name, file in files.items()}
    digest = _digest(described)
    manifest = {"format": FORMAT, "digest": digest, "files": described}
    size_bytes = sum(file.size_bytes for file in files.values())
    size_bytes += write_text(draft / _MANIFEST, json.dumps(manifest, indent=2)).size_bytes
    sync_directory(draft)
    if final.exists():
        _replace(final, draft)
    else:
        draft.rename(final)
    sync_directory(folder)
    shutil.rmtree(draft, ignore_errors=True)
    return SavedCheckpoint(final, state.step, state.loss, state.held_out_loss, size_bytes, digest)


def load_checkpoint(path: Path) -> CheckpointState:
    """Verify and read a checkpoint. The random generators are put back by ``restore_random_state`` when their time
    comes: what is loaded after this may draw from them.

    Raises:
        FileNotFoundError: there is no such directory.
        CheckpointOutdated: it is of a format that this version does not read.
        CheckpointCorrupt: a file is missing or differs from what was written.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"no checkpoint at {path}")
    verify_checkpoint(path)
    try:
        state = json.loads((path / _STATE).read_bytes())
        return CheckpointState(
            step=state["step"],
            saes=tuple(
                SaeState(load_file(path / _weights(index)), load_file(path / _training(index)), values)
                for index, values in enumerate(state["saes"])
            ),
            loss=state["loss"],
            held_out_loss=state["held_out_loss"],
            run=state["run"],
            params=state["params"],
            random=RandomState(load_file(path / _RANDOM), state["random"]),
            kind="anomaly" if path.name.startswith("anomaly_") else "step",
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointCorrupt(f"{path} cannot be read: {error}") from error


def verify_checkpoint(path: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        CheckpointOutdated: it is of a format that this version does not read.
        CheckpointCorrupt: a file is missing or differs from what was written.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        files, digest = manifest["files"], manifest["digest"]
        if (found := manifest.get("format", 1)) != FORMAT:
            raise CheckpointOutdated(f"{path} has format {found}; this version reads format {FORMAT}")
        for name, described in files.items():
            if _describe(path / name) != described:
                raise CheckpointCorrupt(f"{path / name} is not what was written: size or SHA-256 differs")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointCorrupt(f"{path} is incomplete: {error}") from error
    saes = range((len(files) - 2) // 2)
    expected = {_RANDOM, _STATE, *map(_weights, saes), *map(_training, saes)}
    if set(files) != expected or _digest(files) != digest:
        raise CheckpointCorrupt(f"{path / _MANIFEST} does not agree with its own digest")


def checkpoints_in(folder: Path) -> list[Path]:
    """Whole checkpoints to continue from, oldest first: by step as a number, since ``step_900`` follows ``step_1000``
    as text."""
    found = [path for path in folder.glob("step_*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: _step_of(path.name))


def kept_in(folder: Path) -> list[Kept]:
    """What there is in a folder, for retention to choose from, oldest first."""
    found = []
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name):
            is_anomaly = path.name.startswith("anomaly_")
            found.append(Kept(path.name, _step_of(path.name), _held_out_loss(path), is_anomaly))
    return sorted(found, key=lambda kept: kept.step)


def delete_checkpoint(path: Path) -> None:
    """Delete a checkpoint in a way that never leaves half of one under its name."""
    retired = path.with_name(f".{path.name}.retired")
    shutil.rmtree(retired, ignore_errors=True)
    path.rename(retired)
    shutil.rmtree(retired)


def clear_leftovers(folder: Path) -> None:
    """Remove what a process that was killed while it wrote or deleted a checkpoint left behind."""
    for pattern in (".*.draft", ".*.retired"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _weights(index: int) -> str:
    return f"sae_{index}.safetensors"


def _training(index: int) -> str:
    return f"training_{index}.safetensors"


def _step_of(name: str) -> int:
    return int(name.partition("_")[2])


def _held_out_loss(path: Path) -> float | None:
    try:
        found = json.loads((path / _STATE).read_bytes())["held_out_loss"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(found) if isinstance(found, int | float) else None


def _replace(final: Path, draft: Path) -> None:
    """Give ``draft`` the name ``final``; what had it may be left as ``draft``."""
    try:
        exchange(final, draft)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        # Some network and shared file systems cannot swap names. Between these two renames the step has no
        # checkpoint, which is still better than never to have one with the newest state.
        retired = final.with_name(f".{final.name}.retired")
        shutil.rmtree(retired, ignore_errors=True)
        final.rename(retired)
        draft.rename(final)
        shutil.rmtree(retired, ignore_errors=True)


def _describe(file: Path) -> dict[str, object]:
    return {"size_bytes": file.stat().st_size, "sha256": sha256_of(file)}


def _digest(files: dict[str, dict[str, object]]) -> str:
    lines = "".join(f"{name} {described['sha256']}\n" for name, described in sorted(files.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
