"""Checkpoints: a directory of safetensors and JSON that is either whole or not there. Nothing is ever unpickled.

``step_<n>/`` holds ``sae.safetensors`` (weights), ``training.safetensors`` (moments, counters, random state),
``state.json`` (everything that is not a tensor) and ``manifest.json`` (size and SHA-256 of the others).
"""

import errno
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker_image.sae.files import exchange, sha256_of, sync_directory, sync_file
from worker_image.sae.trainer import TrainerState

FORMAT = 1
_PREFIX = "step_"
_WEIGHTS, _TRAINING, _STATE, _MANIFEST = "sae.safetensors", "training.safetensors", "state.json", "manifest.json"

JsonObject = dict[str, object]


class CheckpointCorrupt(Exception):
    """The checkpoint is incomplete or not what was written."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that is on disk, whole and synced."""

    path: Path
    size_bytes: int
    digest: str
    """``sha256:`` and the hex digest over the names and digests of its files."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What a checkpoint holds."""

    trainer: TrainerState
    data: JsonObject
    """Where the data stood; its reader knows what it means."""
    params: JsonObject
    """Parameters of the job that wrote it."""


def save_checkpoint(folder: Path, trainer: TrainerState, data: JsonObject, params: JsonObject) -> SavedCheckpoint:
    """Write ``folder/step_<n>``, replacing one of the same step.

    Files go to a temporary directory, are synced, and only then get their name, so whoever sees ``step_<n>`` sees
    all of it.
    """
    final = folder / f"{_PREFIX}{trainer.step}"
    draft = folder / f".{final.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_file(_on_cpu(trainer.model), draft / _WEIGHTS)
    training = {f"optimizer.{name}": value for name, value in trainer.optimizer.items()}
    training |= {"tokens_since_fired": trainer.tokens_since_fired_F, **_random_state()}
    save_file(_on_cpu(training), draft / _TRAINING)
    state: JsonObject = {
        "format": FORMAT,
        "step": trainer.step,
        "tokens_trained": trainer.tokens_trained,
        "peak_lr": trainer.peak_lr,
        "loss": trainer.loss,
        "data": data,
        "params": params,
    }
    (draft / _STATE).write_text(json.dumps(state, indent=2))
    files = {name: _describe(draft / name) for name in (_WEIGHTS, _TRAINING, _STATE)}
    digest = _digest(files)
    (draft / _MANIFEST).write_text(json.dumps({"digest": digest, "files": files}, indent=2))
    for file in draft.iterdir():
        sync_file(file)
    sync_directory(draft)
    if final.exists():
        _replace(final, draft)
    else:
        draft.rename(final)
    sync_directory(folder)
    shutil.rmtree(draft, ignore_errors=True)
    return SavedCheckpoint(final, sum(file.stat().st_size for file in final.iterdir()), digest)


def load_checkpoint(path: Path) -> LoadedCheckpoint:
    """Verify and read a checkpoint, and put the random generators where they stood.

    Raises:
        FileNotFoundError: there is no such directory.
        CheckpointCorrupt: a file is missing or differs from what was written.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"no checkpoint at {path}")
    verify_checkpoint(path)
    try:
        model = load_file(path / _WEIGHTS)
        training = load_file(path / _TRAINING)
        state = json.loads((path / _STATE).read_bytes())
        if state["format"] != FORMAT:
            raise CheckpointCorrupt(f"{path} has format {state['format']}; this version reads {FORMAT}")
        restored = LoadedCheckpoint(
            trainer=TrainerState(
                model=model,
                optimizer={
                    name.removeprefix("optimizer."): value
                    for name, value in training.items()
                    if name.startswith("optimizer.")
                },
                tokens_since_fired_F=training["tokens_since_fired"],
                step=state["step"],
                tokens_trained=state["tokens_trained"],
                peak_lr=state["peak_lr"],
                loss=state["loss"],
            ),
            data=state["data"],
            params=state["params"],
        )
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointCorrupt(f"{path} cannot be read: {error}") from error
    _restore_random_state(training)
    return restored


def verify_checkpoint(path: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        CheckpointCorrupt: a file is missing or differs from what was written.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        files, digest = manifest["files"], manifest["digest"]
        for name, described in files.items():
            if _describe(path / name) != described:
                raise CheckpointCorrupt(f"{path / name} is not what was written: size or SHA-256 differs")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointCorrupt(f"{path} is incomplete: {error}") from error
    if set(files) != {_WEIGHTS, _TRAINING, _STATE} or _digest(files) != digest:
        raise CheckpointCorrupt(f"{path / _MANIFEST} does not agree with its own digest")


def checkpoints_in(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first: by step as a number, since as text ``step_900`` follows ``step_1000``."""
    found = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)))


def retain_newest(folder: Path, keep: int) -> list[str]:
    """Delete all but the ``keep`` newest checkpoints; return the names deleted."""
    doomed = checkpoints_in(folder)[:-keep]
    for path in doomed:
        # Renamed first: a deletion cut short must not leave something that looks like a checkpoint.
        retired = path.with_name(f".{path.name}.retired")
        path.rename(retired)
        shutil.rmtree(retired)
    return [path.name for path in doomed]


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


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _random_state() -> dict[str, Tensor]:
    state = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(training: dict[str, Tensor]) -> None:
    torch.set_rng_state(training["random.cpu"])
    if torch.cuda.is_available() and "random.cuda" in training:
        torch.cuda.set_rng_state(training["random.cuda"])


def _describe(file: Path) -> dict[str, object]:
    return {"size_bytes": file.stat().st_size, "sha256": sha256_of(file)}


def _digest(files: dict[str, dict[str, object]]) -> str:
    lines = "".join(f"{name} {described['sha256']}\n" for name, described in sorted(files.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
