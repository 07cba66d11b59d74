"""The measurements: first of the activations alone, then of the language model's losses."""

import json
import math
import time
from dataclasses import asdict
from itertools import islice

import torch
from torch import Tensor

from worker_image import __version__
from worker_image.contract.evaluate_sae import EvaluateSaeParams
from worker_image.contract.events import Started
from worker_image.jobs.artifact import keep
from worker_image.jobs.bookmark import Bookmark, Bookmarks
from worker_image.jobs.looking import Looking
from worker_image.jobs.trained import Trained
from worker_image.lm.harvest import Harvester
from worker_image.lm.head import Headed, NoHead, load_headed
from worker_image.lm.splice import Losses, Splice, passes_of
from worker_image.reporter import RunContext
from worker_image.sae.measuring import Measurement, Measuring
from worker_image.sae.metrics import loss_recovered

Results = dict[str, float]


class Evaluating:
    """The job and what it holds."""

    def __init__(self, params: EvaluateSaeParams, run: RunContext, trained: Trained) -> None:
        self._params, self._run, self._trained = params, run, trained
        self._activations = trained.activations
        self._sequences = trained.activations.held_out.sequences
        self.bookmarks = Bookmarks(params, run, trained)
        self._found = self.bookmarks.found()
        self._measured, self._spliced = self._found.passes
        """Passes done in each round."""
        self._began = time.monotonic() - self._found.elapsed_s
        self._looking = Looking(run, self._activations.held_out_tokens, self._found.tokens)
        self._measuring: Measuring | None = None
        self._lost = Losses(**self._found.figures)
        self._without: str | None = None
        """Why the language model's losses are not measured."""

    def execute(self) -> None:
        """Measure, and leave what was found."""
        headed = self._headed()
        self._announce()
        looked = self._activations.held_out_tokens * (1 if headed is None else 2)
        self._looking = Looking(self._run, looked, self._found.tokens)
        harvester = self._activations.harvester() if headed is None else self._activations.harvester_of(headed.body)
        measured = self._measure(harvester)
        results = measured.values() | {"tokens": float(measured.tokens)}
        if headed is not None:
            results |= self._losses(headed, measured)
        results["wall_time_s"] = round(time.monotonic() - self._began, 3)
        self._keep(measured, results)
        recovered = f", loss recovered {results['loss_recovered']:.4f}" if "loss_recovered" in results else ""
        self._run.log(f"done: fvu {results['fvu']:.4f} at l0 {results['l0']:.1f}{recovered}", "success")
        self._run.finish("completed", results=results)

    def bookmark(self) -> Bookmark:
        """How far it is."""
        sums = self._found.tensors if self._measuring is None else self._measuring.state()
        elapsed_s = time.monotonic() - self._began
        passes = (self._measured, self._spliced)
        return Bookmark(passes, self._looking.done, elapsed_s, asdict(self._lost), sums)

    def _headed(self) -> Headed | None:
        if not self._params.loss_recovered:
            self._without = "it was not asked for"
            return None
        dtype = getattr(torch, self._params.model_dtype)
        try:
            return load_headed(self._activations.source, dtype, self._activations.device)
        except NoHead as error:
            self._without = str(error)
            self._run.notify(f"loss recovered is not available: {error}; everything else is measured", "warning")
            return None

    def _announce(self) -> None:
        config = self._trained.sae.config
        summary: dict[str, str | int | float | bool | None] = {
            "sae": str(self._trained.sae_path),
            "family": config.family,
            "d_in": config.d_in,
            "d_sae": config.d_sae,
            "model": self._activations.source.reference,
            "hookpoints": ", ".join(place.place for place in self._trained.read),
            "dataset": self._activations.dataset.name,
            "tokens": self._activations.held_out_tokens,
            "device": str(self._activations.device),
            "saeforge": __version__,
        }
        if self._trained.written != self._trained.read:
            summary["target"] = ", ".join(place.place for place in self._trained.written)
        width = max(map(len, summary))
        self._run.log("\n".join(f"{name:<{width}}  {value}" for name, value in summary.items()))
        self._run.emit(Started, device=str(self._activations.device), summary=summary)

    def _measure(self, harvester: Harvester) -> Measurement:
        placed = self._trained.fitting(harvester.columns(self._sequences[0]))
        sae = self._trained.sae
        measuring = self._measuring = Measuring(sae.config.d_sae, placed.parts)
        if self._found.tensors:
            measuring.restore(self._found.tensors)
        for acts_NW in harvester.harvest(self._sequences, after=self._measured):
            x_ND, y_NE = placed.split(acts_NW, sae.b_dec_E)
            with torch.no_grad():
                measuring.add(y_NE, sae(x_ND, deployed=True))
            self._measured += 1
            self._looking.advance("measuring", len(acts_NW))
        return measuring.result()

    def _losses(self, headed: Headed, measured: Measurement) -> Results:
        sae, activations = self._trained.sae, self._activations
        splice = Splice(headed, self._trained.read, self._trained.written, activations.device)
        mean_E = measured.mean_E.to(sae.b_dec_E)
        others = {"zero": torch.zeros_like(mean_E), "mean": mean_E}
        tokenizer = activations.source.tokenizer

        def reconstruct(x_ND: Tensor) -> Tensor:
            return sae(x_ND.to(sae.b_dec_E), deployed=True).y_hat_BE

        passes = passes_of(
            self._sequences,
            headed,
            batch_tokens=self._params.harvest_batch_size * self._params.context_length,
            pad_id=tokenizer.pad_token_id or 0,
            mask_id=tokenizer.mask_token_id,
            share=self._params.masked_share,
            seed=self._params.seed,
        )
        for given in islice(passes, self._spliced, None):
            splice.add_to(self._lost, given, reconstruct, others)
            self._spliced += 1
            self._looking.advance("splicing", len(given.kept_N))
        if not self._lost.tokens:
            self._without = "no token of the held-out text is predicted"
            return {}
        return losses_told(self._lost)

    def _keep(self, measured: Measurement, results: Results) -> None:
        report: dict[str, object] = {
            **told(results),
            "loss_recovered_unavailable": self._without,
            "hookpoints": {place: told(it.values()) for place, it in measured.parts.items()},
            "densities": {f"{edge:g}": share for edge, share in measured.densities.items()},
            "sae": str(self._trained.sae_path),
            "model": self._activations.source.reference,
            "dataset": self._activations.dataset.name,
            "saeforge_version": __version__,
        }
        text = json.dumps(report, indent=2, allow_nan=False) + "\n"
        keep(self._run, "evaluation.json", "report", text.encode())


def told(values: Results) -> dict[str, float | None]:
    """As JSON has it: null where there is no number."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def losses_told(losses: Losses) -> Results:
    """Cross-entropies in nats a token, divergences from the clean predictions, and how much of either is recovered."""
    ce = {name: losses.mean(name) for name in ("clean", "spliced", "zero", "mean")}
    kl = {name: losses.mean_divergence(name) for name in ("spliced", "zero", "mean")}
    return {
        **{f"ce_{name}": value for name, value in ce.items()},
        **{f"kl_{name}": value for name, value in kl.items()},
        "loss_recovered": loss_recovered(ce["clean"], ce["spliced"], ce["zero"]),
        "loss_recovered_mean": loss_recovered(ce["clean"], ce["spliced"], ce["mean"]),
        "kl_recovered": loss_recovered(0.0, kl["spliced"], kl["zero"]),
        "predicted_tokens": float(losses.tokens),
    }
