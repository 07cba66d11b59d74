"""What jobs about a trained autoencoder have in common: it, and the places in the language model it belongs to."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from worker_image.contract.activations import TrainedSaeParams
from worker_image.device import choose_device
from worker_image.errors import UserError
from worker_image.jobs.activations import open_activations
from worker_image.lm.activations import Activations
from worker_image.lm.harvest import Columns, side_by_side
from worker_image.lm.hookpoints import Hookpoint
from worker_image.reporter import RunContext
from worker_image.sae.formats.library import read_sae
from worker_image.sae.formats.refusals import Unreadable
from worker_image.sae.formats.trained import rebuilt
from worker_image.sae.model import Sae


@dataclass(frozen=True)
class Trained:
    """A trained autoencoder on its language model, whose weights are not read yet."""

    sae: Sae
    sae_path: Path
    activations: Activations
    read: tuple[Hookpoint, ...]
    """Places that it reads, side by side."""
    written: tuple[Hookpoint, ...]
    """Places whose activations it gives."""

    def fitting(self, columns: Columns) -> "Placed":
        """How it fits activations of these widths.

        Raises:
            UserError: it does not.
        """
        encoded = [columns[place.name] for place in self.read]
        given = [columns[place.name] for place in self.written]
        _check_width("reads", self.read, encoded, self.sae.config.d_in)
        _check_width("gives", self.written, given, self.sae.config.width_out)
        parts = side_by_side(self.written, [_width(place) for place in given])
        return Placed(slice(encoded[0].start, encoded[-1].stop), slice(given[0].start, given[-1].stop), parts)


@dataclass(frozen=True)
class Placed:
    """Columns of harvested activations, (N, W), that an autoencoder reads and gives."""

    encoded: slice
    predicted: slice
    parts: Columns
    """Hookpoint -> its columns of what is given, (N, E)."""

    def split(self, acts_NW: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """What is read and what should be given, (N, D) and (N, E), as ``like``."""
        return acts_NW[:, self.encoded].to(like), acts_NW[:, self.predicted].to(like)


def _width(columns: slice) -> int:
    return columns.stop - columns.start


def _check_width(what: str, places: Iterable[Hookpoint], columns: Iterable[slice], wanted: int) -> None:
    width = sum(map(_width, columns))
    if width != wanted:
        raise UserError(
            "hookpoints",
            f"the autoencoder {what} {wanted} numbers a token, and {', '.join(place.name for place in places)} has "
            f"{width} in this model",
            "name the model and the hookpoints that it was trained on",
        )


def open_trained(params: TrainedSaeParams, run: RunContext) -> Trained:
    """What the parameters name, checked as far as is possible without reading the language model's weights.

    Raises:
        UserError: with the parameter at fault.
    """
    device = choose_device(params.device, run.gpus, run.gpu_memory_mb)
    path = Path(run.inputs.get("sae", params.sae))
    try:
        stored, provenance = read_sae(path)
    except Unreadable as error:
        raise UserError("sae", error.message, error.suggestion) from error
    read = params.hookpoints or [name for name in provenance.hookpoint.split(",") if name]
    target = params.target_hookpoint or (provenance.target_hookpoint if stored.wiring == "transcoder" else None) or None
    if not read:
        raise UserError("hookpoints", f"{path} does not tell which places it was trained on", "name them")
    if stored.wiring == "transcoder" and target is None and stored.W_skip_ED is None:
        raise UserError("target_hookpoint", f"{path} is a transcoder and does not tell where to", "name the place")
    if stored.wiring != "transcoder" and target is not None:
        raise UserError("target_hookpoint", f"{path} is no transcoder: it gives what it reads", "leave it out")
    names = [*read, *([target] if target and target not in read else [])]
    activations = open_activations(params, run, names, device)
    places = {place.name: place for place in activations.source.hookpoints}
    reads = tuple(places[name] for name in read)
    return Trained(
        sae=rebuilt(stored, device).requires_grad_(False),
        sae_path=path,
        activations=activations,
        read=reads,
        written=(places[target],) if target else reads,
    )
