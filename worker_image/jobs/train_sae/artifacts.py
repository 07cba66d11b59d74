"""The files that a trained autoencoder is left in: our own format, and those of other libraries that were asked for."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from worker_image import __version__
from worker_image.contract.jobs import TrainSaeParams
from worker_image.jobs.artifact import Kind, announce
from worker_image.jobs.train_sae.inputs import Inputs
from worker_image.jobs.train_sae.learner import Learner
from worker_image.reporter import RunContext
from worker_image.sae.files import write_json
from worker_image.sae.formats import native
from worker_image.sae.formats.deployed import DeployedSae
from worker_image.sae.formats.library import LAYOUTS
from worker_image.sae.formats.provenance import Provenance
from worker_image.sae.formats.refusals import CannotExpress
from worker_image.sae.formats.trained import deployed
from worker_image.sae.normalisation import Scaling

_KINDS: Mapping[str, Kind] = {"sae.safetensors": "sae", "cfg.json": "config", "metrics.json": "metrics"}
"""Of our own format; whatever other libraries read is a file."""


def write_artifacts(
    params: TrainSaeParams,
    run: RunContext,
    inputs: Inputs,
    learner: Learner,
    scaling: Scaling | None,
    figures: Mapping[str, float],
    folder: Path,
) -> None:
    """Write the autoencoder and its ``figures`` into ``folder`` and announce every file.

    ``scaling``: what was done to activations before it learned from them; it is folded in. A format that turns out not
    to be able to express it is left out with a warning: what was trained is not lost for that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = provenance_of(params, inputs, learner)
    about: dict[str, object] = {
        "model": told.model,
        "hookpoint": told.hookpoint,
        "dataset": told.dataset,
        "seed": learner.trainer.config.seed,
        "saeforge_version": __version__,
    }
    if learner.label:
        about["variant"] = learner.label
    write_json({**figures, **about}, folder / "metrics.json")
    try:
        sae = _deployed(learner, scaling)
        native.write(sae, folder, told)
        for name in _KINDS:
            announce(run, folder / name, _KINDS[name])
        for path in _exported(params, run, sae, told, folder):
            announce(run, path, "file")
    except CannotExpress as refused:
        run.notify(f"the autoencoder is not exported: {refused.message}; {refused.suggestion}", "warning")
        announce(run, folder / "metrics.json", "metrics")


def provenance_of(params: TrainSaeParams, inputs: Inputs, learner: Learner) -> Provenance:
    """Where the autoencoder comes from, for whoever loads it."""
    training = asdict(learner.trainer.config) | {"saeforge_version": __version__}
    if learner.label:
        training["variant"] = learner.label
    return Provenance(
        model=inputs.activations.source.reference,
        hookpoint=",".join([params.hookpoint, *params.crosscoder_hookpoints]),
        target_hookpoint=params.target_hookpoint or "",
        dataset=inputs.activations.dataset.name,
        context_length=params.context_length,
        prepend_bos={"always": True, "never": False}.get(params.bos),
        training=training,
    )


def _deployed(learner: Learner, scaling: Scaling | None) -> DeployedSae:
    sae = learner.trainer.sae
    if scaling is None:
        return deployed(sae)
    return deployed(sae, scaling.of(learner.encoded), scaling.of(learner.predicted))


def _exported(
    params: TrainSaeParams, run: RunContext, sae: DeployedSae, told: Provenance, folder: Path
) -> Iterator[Path]:
    """Write each format that was asked for; yield its files."""
    wanted = [sae.fits if name == "auto" else name for name in params.export_formats]
    # Laid out as the library looks for it: sparsify by hookpoint, dictionary_learning by trainer.
    inner = {"sparsify": params.hookpoint.replace(":", "-"), "dictionary_learning": "trainer_0"}
    for name in dict.fromkeys(wanted):
        if name == native.NAME:
            continue
        place = folder / name / inner.get(name, "")
        try:
            LAYOUTS[name].write(sae, place, told)
        except CannotExpress as refused:
            run.notify(f"not exported to {name}: {refused.message}; {refused.suggestion}", "warning")
            continue
        yield from sorted(place.iterdir())
