"""How far a job is that goes through tokens and changes nothing: the checkpoint from which, paused, it goes on.

Sums are kept to the bit and passes of the language model are the same ones each time, so that on the same machine the
results are those of a run that was not paused.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worker_image import __version__
from worker_image.contract.activations import TrainedSaeParams
from worker_image.contract.events import CheckpointSaved
from worker_image.jobs.trained import Trained
from worker_image.reporter import RunContext
from worker_image.sae.files import sha256_of, sync_directory
from worker_image.sae.tensor_file import write_tensors, write_text

_STATE = "bookmark.json"
_TENSORS = "sums.safetensors"

Figures = Mapping[str, Any]
"""What JSON holds without loss: Python writes floats so that they are read back to the bit."""


@dataclass(frozen=True)
class Bookmark:
    """A place in the two rounds that such a job makes over its tokens, and what was found up to there."""

    passes: tuple[int, int] = (0, 0)
    """Passes of the language model done in each round."""
    tokens: int = 0
    """Looked at, in both together."""
    elapsed_s: float = 0.0
    figures: Figures = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """In host memory."""


class Bookmarks:
    """Those of one run."""

    def __init__(self, params: TrainedSaeParams, run: RunContext, trained: Trained) -> None:
        self._run = run
        self._about = {
            "params": params.model_dump(mode="json"),
            "dataset_bytes": trained.activations.dataset.size_bytes,
            "sae": _digest_of(trained),
            "saeforge": __version__,
        }
        """What a bookmark is worth something for: with anything else, what was found is not what would be."""

    def found(self) -> Bookmark:
        """Where an earlier attempt was paused; the beginning when there is none, or none of use, which is told."""
        path = self._run.resume_from
        if path is None:
            return Bookmark()
        try:
            state = json.loads((path / _STATE).read_bytes())
            if state["sums"] != sha256_of(path / _TENSORS):
                raise ValueError(f"{_TENSORS} is not what was written")
            first, second = state["passes"]
            bookmark = Bookmark(
                (first, second), state["tokens"], state["elapsed_s"], state["figures"], load_file(path / _TENSORS)
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            self._run.notify(f"{path} cannot be read ({error}): beginning anew", "warning")
            return Bookmark()
        if changed := [name for name, value in self._about.items() if state["about"].get(name) != value]:
            self._run.notify(f"{' and '.join(changed)} changed since {path.name}: beginning anew", "warning")
            return Bookmark()
        self._run.log(f"continuing from {path}, {bookmark.tokens:,} tokens on")
        return bookmark

    def put(self, bookmark: Bookmark, reason: Literal["pause", "stop"]) -> str:
        """Keep it as a checkpoint, whole or not at all; return its name.

        Raises:
            OSError: it could not be written.
        """
        folder, step = self._run.checkpoints, sum(bookmark.passes)
        final = folder / f"step_{step}"
        draft = folder / f".{final.name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        sums = write_tensors(draft / _TENSORS, bookmark.tensors)
        state = {
            "about": self._about,
            "passes": bookmark.passes,
            "tokens": bookmark.tokens,
            "elapsed_s": bookmark.elapsed_s,
            "figures": bookmark.figures,
            "sums": sums.sha256,
        }
        said = write_text(draft / _STATE, json.dumps(state))
        sync_directory(draft)
        draft.rename(final)
        sync_directory(folder)
        self._run.emit(
            CheckpointSaved,
            name=final.name,
            step=step,
            size_bytes=sums.size_bytes + said.size_bytes,
            digest=f"sha256:{said.sha256}",
            reason=reason,
        )
        return final.name


def _digest_of(trained: Trained) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(trained.sae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
