"""From a language model and a dataset to batches of activations, through the cache or without it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from worker_image.errors import OutOfGpuMemory, UserError
from worker_image.lm.batches import Batches, Json
from worker_image.lm.cache import ActivationCache, Recipe
from worker_image.lm.cached import CachedBatches, CachedPart
from worker_image.lm.dataset import Dataset
from worker_image.lm.digest import DigestBook, digest_of
from worker_image.lm.harvest import Harvester
from worker_image.lm.model import ModelSource, load_model
from worker_image.lm.streamed import StreamedBatches
from worker_image.lm.tokens import Bos, HeldOut, SequenceMaker, Stream, TokenStream, set_aside

_MODEL_FILES = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""Weights, configuration, tokenizer."""


@dataclass(frozen=True)
class Reading:
    """How a language model reads a dataset."""

    context_length: int = 128
    packing: bool = False
    bos: Bos = "auto"
    drop_first: bool = False
    sequences_per_pass: int = 32
    """Of full context length; of shorter ones as many more as make the same number of tokens."""
    model_dtype: str = "float32"
    dtype: str = "float32"
    """Of the activations as they are kept."""


class Activations:
    """What a model's hookpoints see of a dataset. The model's weights are read when they are first needed."""

    def __init__(
        self,
        source: ModelSource,
        dataset: Dataset,
        reading: Reading,
        *,
        device: torch.device,
        held_out_tokens: int,
        least_training: int,
        held_out_seed: int = 0,
    ) -> None:
        """
        Raises:
            UserError: the model cannot read so much at once, or the dataset does not hold so many tokens.
        """
        self.source, self.dataset, self.reading, self.device = source, dataset, reading, device
        self.maker = SequenceMaker(
            source.tokenizer,
            reading.context_length,
            source.longest,
            packing=reading.packing,
            bos=reading.bos,
            drop_first=reading.drop_first,
        )
        self.held_out: HeldOut = set_aside(dataset, self.maker, held_out_tokens, least_training, held_out_seed)
        self._harvester: Harvester | None = None
        self._digests: tuple[str, str] | None = None

    @property
    def held_out_tokens(self) -> int:
        return sum(len(sequence.kept) for sequence in self.held_out.sequences)

    @property
    def estimated_tokens(self) -> int:
        """About how many tokens there are to train on, from a look at the dataset's beginning."""
        return max(1, int(self.dataset.text_bytes * self.held_out.tokens_per_byte) - self.held_out_tokens)

    def harvester(self) -> Harvester:
        """The language model with its weights, read once.

        Raises:
            UserError: they are missing or damaged.
            OutOfGpuMemory: they do not fit.
        """
        if self._harvester is None:
            try:
                model = load_model(self.source, getattr(torch, self.reading.model_dtype), self.device)
            except torch.cuda.OutOfMemoryError as error:
                raise OutOfGpuMemory(
                    "model",
                    "the language model does not fit into GPU memory",
                    "set model_dtype to bfloat16 or use a smaller one",
                ) from error
            self._harvester = self.harvester_of(model)
        return self._harvester

    def harvester_of(self, model: nn.Module) -> Harvester:
        """What reads from this model, which has its weights."""
        return Harvester(
            model,
            self.source.hookpoints,
            pad_id=self.source.tokenizer.pad_token_id or 0,
            batch_tokens=self.reading.sequences_per_pass * self.reading.context_length,
            device=self.device,
            dtype=getattr(torch, self.reading.dtype),
        )

    def release(self) -> None:
        """Let the language model go, unless somebody else still holds it."""
        self._harvester = None

    def training(self, limit: int | None = None) -> TokenStream:
        """All documents that are not held out; ``limit`` kept tokens of them an epoch."""
        return TokenStream(self.dataset, self.maker, self.held_out.documents, limit)

    def cached_part(self, cache: ActivationCache, rows: int | None) -> CachedPart:
        """So many training tokens in the cache; the held-out ones when None. Hashes the model and the dataset once.

        Raises:
            UserError: what the model is cannot be told for certain.
        """
        part = "training" if rows is not None else "held_out"
        entries = {
            hookpoint: cache.open(self._recipe(cache.digests, part, hookpoint.place))
            for hookpoint in self.source.hookpoints
        }
        stream: Stream = self.training() if rows is not None else self.held_out
        return CachedPart(entries, stream, self.held_out_tokens if rows is None else rows)

    def _recipe(self, digests: DigestBook, part: str, place: str) -> Recipe:
        # A file that was written just now is hashed at every asking: ask once.
        self._digests = self._digests or (
            model_digest(self.source, digests),
            digests.of_all(self.dataset.paths, named=False),
        )
        model, dataset = self._digests
        documents = sorted(self.held_out.documents)
        held_out = documents if part == "training" else [documents, self.held_out_tokens]
        return Recipe(
            model=model,
            dataset=dataset,
            text_field=self.dataset.text_field,
            part=part,
            held_out=digest_of(held_out),
            context_length=self.reading.context_length,
            packing=self.reading.packing,
            bos=self.reading.bos,
            drop_first=self.reading.drop_first,
            hookpoint=place,
            model_dtype=self.reading.model_dtype,
            dtype=self.reading.dtype,
        )


@dataclass(frozen=True)
class Feeding:
    """How activations are fed to training."""

    batch_size: int
    total_tokens: int
    """What all of training will ask for: no more is harvested."""
    limit: int | None = None
    """Distinct tokens at most."""
    window: int = 524_288
    """Tokens mixed with each other."""
    seed: int = 0
    prefetch: bool = False


def batches_of(
    activations: Activations,
    feeding: Feeding,
    cache: ActivationCache | None,
    *,
    required: bool = False,
    position: Json | None = None,
) -> Batches:
    """Batches through the cache, or without it where there is none or they would not fit; then if ``required`` it
    is an error. From ``position`` on they come from where they came before.

    Raises:
        UserError: with the parameter at fault.
    """
    if required and cache is None:
        raise UserError("cache", "this run has no activation cache", "set cache to auto or off")
    before = position["source"] if position else None
    if cache is not None and before in (None, "cache"):
        found = _cached(activations, feeding, cache, position)
        if required or before == "cache" or cache.fits(found.missing_bytes(activations.dataset.text_bytes)):
            return found
        found.close()
    if before == "cache":
        raise UserError(
            "cache",
            "the checkpoint's batches came from the activation cache, which this run has not",
            "set cache as it was, or start afresh",
        )
    return StreamedBatches(
        activations.training(feeding.limit),
        activations.held_out,
        activations.harvester,
        batch_size=feeding.batch_size,
        capacity=feeding.window,
        total_tokens=feeding.total_tokens,
        seed=feeding.seed,
        prefetch=feeding.prefetch,
        release=activations.release,
        position=position,
    )


def _cached(activations: Activations, feeding: Feeding, cache: ActivationCache, position: Json | None) -> CachedBatches:
    rows = min(feeding.total_tokens, feeding.limit or feeding.total_tokens)
    return CachedBatches(
        activations.cached_part(cache, rows),
        activations.cached_part(cache, None),
        activations.harvester,
        batch_size=feeding.batch_size,
        window=feeding.window,
        seed=feeding.seed,
        prefetch=feeding.prefetch,
        pinned=feeding.prefetch and activations.device.type == "cuda",
        release=activations.release,
        position=position,
    )


def model_digest(source: ModelSource, digests: DigestBook) -> str:
    """What tells a model from every other: its files' digest, or its revision on the hub.

    Raises:
        UserError: the revision is not known.
    """
    path = Path(source.reference)
    if path.is_absolute():
        return digests.of_all(_model_files(path.iterdir()), named=True)
    revision = getattr(source.config, "_commit_hash", None)
    if not revision:
        raise UserError("cache", f"which revision of {source.reference} this is cannot be told", "set cache to off")
    return f"{source.reference}@{revision}"


def _model_files(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix in _MODEL_FILES and path.is_file())
