"""Two passes over the text: one finds each latent's examples, the other what it does in the tokens around them."""

import json
import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from worker_image import __version__
from worker_image.contract import feature_file
from worker_image.contract.events import Started
from worker_image.contract.sae_features import SaeFeaturesParams
from worker_image.errors import UserError
from worker_image.jobs.artifact import keep, keep_draft
from worker_image.jobs.bookmark import Bookmark, Bookmarks
from worker_image.jobs.looking import Looking
from worker_image.jobs.sae_features.telling import Telling, Windows
from worker_image.jobs.trained import Placed, Trained
from worker_image.lm.harvest import Harvester
from worker_image.lm.head import Headed, NoHead, load_headed
from worker_image.lm.tokens import START, Sequence
from worker_image.memory import MIB, available_bytes
from worker_image.reporter import RunContext
from worker_image.sae.code import Code
from worker_image.sae.features import Gathering
from worker_image.sae.files import draft_of
from worker_image.sae.metrics import density_shares

_PASSES_AT_ONCE = 64
"""Passes of the language model whose sequences are put in order of their lengths together."""


class Finding:
    """The job and what it holds."""

    def __init__(self, params: SaeFeaturesParams, run: RunContext, trained: Trained) -> None:
        self._params, self._run, self._trained = params, run, trained
        self._activations = trained.activations
        self._device = trained.activations.device
        d_sae = trained.sae.config.d_sae
        if params.latents and max(params.latents) >= d_sae:
            raise UserError(
                "latents", f"there is no latent {max(params.latents)}", f"they are numbered from 0 to {d_sae - 1}"
            )
        latents = torch.tensor(sorted(set(params.latents)) or range(d_sae), device=self._device)
        self._sampled = params.quantiles * params.examples_per_quantile
        self._gathering = Gathering(latents, d_sae, top=params.top_examples, sampled=self._sampled, seed=params.seed)
        self._sequences: list[Sequence] = []
        """All that were looked at."""
        self.bookmarks = Bookmarks(params, run, trained)
        self._found = self.bookmarks.found()
        self._passes = list(self._found.passes)
        """Done in each round."""
        self._windows: Windows | None = None
        self._began = time.monotonic() - self._found.elapsed_s
        self._looking = Looking(run, 2 * params.tokens, self._found.tokens)
        self._without: str | None = None
        """Why there are no logit effects."""

    def execute(self) -> None:
        """Look, look again, and leave what was found."""
        self._check_memory()
        headed = self._headed()
        self._announce()
        harvester = self._activations.harvester() if headed is None else self._activations.harvester_of(headed.body)
        placed = self._find(harvester)
        if not self._sequences:
            raise UserError("dataset", "it holds no text beside the held-out tokens", "lower held_out_tokens")
        windows = self._look_around(harvester, placed)
        self._keep(headed, placed, windows)

    def bookmark(self) -> Bookmark:
        """How far it is."""
        tensors = {name: held.cpu() for name, held in self._gathering.state().items()}
        if self._windows is not None:
            tensors["acts_XC"] = self._windows.acts_XC
        first, second = self._passes
        return Bookmark((first, second), self._looking.done, time.monotonic() - self._began, tensors=tensors)

    def _check_memory(self) -> None:
        examples = len(self._gathering.latent_A) * (self._params.top_examples + self._sampled)
        wanted = examples * (2 * self._params.context_tokens + 1) * 4 + self._params.tokens * 8
        if (available := available_bytes()) is not None and wanted > available:
            raise UserError(
                "context_tokens",
                f"{examples:,} examples of {2 * self._params.context_tokens + 1} tokens and {self._params.tokens:,} "
                f"tokens of text take {wanted // MIB} MiB, but only {available // MIB} MiB of memory are left",
                "lower context_tokens, top_examples or tokens, or name fewer latents",
            )

    def _headed(self) -> Headed | None:
        if not self._params.effects:
            self._without = "they were not asked for"
            return None
        try:
            headed = load_headed(
                self._activations.source, getattr(torch, self._params.model_dtype), self._activations.device
            )
        except NoHead as error:
            self._without = str(error)
        else:
            if headed.kind == "causal" and headed.unembedding_VD.shape[1] == self._out_width:
                return headed
            # A masked model's head transforms what it reads before it compares it with tokens.
            self._without = "the last matrix of this model does not read what the autoencoder gives"
        self._run.log(f"no logit effects: {self._without}")
        return None

    @property
    def _out_width(self) -> int:
        """Of what is given at one hookpoint."""
        return self._trained.sae.config.width_out // len(self._trained.written)

    def _announce(self) -> None:
        summary: dict[str, str | int | float | bool | None] = {
            "sae": str(self._trained.sae_path),
            "latents": len(self._gathering.latent_A),
            "d_sae": self._trained.sae.config.d_sae,
            "model": self._activations.source.reference,
            "hookpoints": ", ".join(place.place for place in self._trained.read),
            "dataset": self._activations.dataset.name,
            "tokens": self._params.tokens,
            "device": str(self._device),
            "saeforge": __version__,
        }
        width = max(map(len, summary))
        self._run.log("\n".join(f"{name:<{width}}  {value}" for name, value in summary.items()))
        self._run.emit(Started, device=str(self._device), summary=summary)

    def _find(self, harvester: Harvester) -> Placed:
        """The first pass."""
        placed = self._trained.fitting(harvester.columns(self._activations.held_out.sequences[0]))
        if self._found.tensors:
            self._gathering.restore(self._found.tensors)
        for first, indices, parts in self._rest(harvester, self._chunks(), 0):
            sequence_B, position_B = self._places([first + index for index in indices])
            self._gathering.add(self._encoded(parts, placed), sequence_B, position_B)
            self._passes[0] += 1
            self._looking.advance("finding examples", len(sequence_B))
        return placed

    def _chunks(self) -> Iterator[list[Sequence]]:
        """The text, as far as it is looked at, some sequences at a time."""
        at_once = self._params.harvest_batch_size * self._params.context_length * _PASSES_AT_ONCE
        looked = held = 0
        chunk: list[Sequence] = []
        for piece in self._activations.training().pieces(START):
            chunk.append(piece.sequence)
            held += len(piece.sequence.kept)
            if held >= at_once or looked + held >= self._params.tokens:
                self._sequences += chunk
                yield chunk
                looked, held, chunk = looked + held, 0, []
            if looked >= self._params.tokens:
                return
        if chunk:
            self._sequences += chunk
            yield chunk

    def _rest(
        self, harvester: Harvester, chunks: Iterable[list[Sequence]], round_: int
    ) -> Iterator[tuple[int, list[int], list[Tensor]]]:
        """Passes over the chunks but for those that were done before: number of the chunk's first sequence among all
        of theirs, indices of the pass's in the chunk, activations."""
        first, done = 0, self._found.passes[round_]
        for chunk in chunks:
            # Who goes with whom follows from the chunk alone.
            if done >= (here := harvester.count_passes(chunk)):
                done -= here
            else:
                for indices, parts in harvester.passes(chunk, after=done):
                    yield first, indices, parts
                done = 0
            first += len(chunk)

    def _places(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """Sequence and position of every row that a pass over these sequences gives."""
        kept = [self._sequences[number].kept for number in numbers]
        sequence_B = np.repeat(np.array(numbers, dtype=np.int64), [len(each) for each in kept])
        position_B = np.concatenate(kept).astype(np.int64)
        return torch.from_numpy(sequence_B).to(self._device), torch.from_numpy(position_B).to(self._device)

    def _encoded(self, parts: list[Tensor], placed: Placed) -> Code:
        sae = self._trained.sae
        x_BD, _ = placed.split(torch.cat(parts, dim=1), sae.b_dec_E)
        with torch.no_grad():
            return sae.encode(sae.centred(x_BD), deployed=True)

    def _look_around(self, harvester: Harvester, placed: Placed) -> Windows:
        """The second pass, over the sequences that hold examples."""
        windows = self._windows = Windows(self._gathering, self._params.context_tokens)
        if "acts_XC" in self._found.tensors:
            windows.restore(self._found.tensors["acts_XC"])
        numbers = windows.sequences.tolist()
        size = self._params.harvest_batch_size * _PASSES_AT_ONCE
        chunks = ([self._sequences[each] for each in numbers[at : at + size]] for at in range(0, len(numbers), size))
        for first, indices, parts in self._rest(harvester, chunks, 1):
            chosen = [numbers[first + index] for index in indices]
            firings = self._gathering.firings(self._encoded(parts, placed))
            windows.fill(firings, chosen, [self._sequences[number].kept for number in chosen])
            self._passes[1] += 1
            self._looking.advance("looking around them", sum(len(self._sequences[each].kept) for each in chosen))
        return windows

    def _keep(self, headed: Headed | None, placed: Placed, windows: Windows) -> None:
        tokenizer = self._activations.source.tokenizer
        telling = Telling(self._params, self._gathering, windows, self._sequences, self._trained.sae, tokenizer)
        last = list(placed.parts.values())[-1]
        draft = draft_of(self._run.artifacts / feature_file.NAME)
        draft.unlink(missing_ok=True)
        about = {
            "sae": self._trained.sae_path,
            "model": self._activations.source.reference,
            "hookpoints": ", ".join(place.name for place in self._trained.read),
            "dataset": self._activations.dataset.name,
            "tokens": self._gathering.tokens,
            "saeforge": __version__,
        }
        told = telling.features(headed.unembedding_VD if headed else None, last)
        feature_file.write(draft, told, telling.texts, about)
        keep_draft(self._run, feature_file.NAME, "file")
        results = self._results()
        densities = density_shares(self._gathering.firings_A.cpu(), self._gathering.tokens)
        report = {
            **{name: str(value) for name, value in about.items()},
            **results,
            "densities": {f"{edge:g}": share for edge, share in densities.items()},
            "effects_unavailable": self._without,
        }
        text = json.dumps(report, indent=2, allow_nan=False) + "\n"
        keep(self._run, "features.json", "report", text.encode())
        self._run.log(
            f"done: {results['active_latents']:,.0f} of {results['latents']:,.0f} latents were active in "
            f"{results['tokens']:,.0f} tokens",
            "success",
        )
        self._run.finish("completed", results=results)

    def _results(self) -> dict[str, float]:
        firings_A, tokens = self._gathering.firings_A, self._gathering.tokens
        return {
            "latents": float(len(firings_A)),
            "active_latents": float((firings_A > 0).sum()),
            "tokens": float(tokens),
            "l0": float(firings_A.sum()) / tokens,
            "wall_time_s": round(time.monotonic() - self._began, 3),
        }
