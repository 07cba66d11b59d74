"""Where activations come from: parameters shared by every job that reads them from a language model."""

from typing import Annotated, Literal

from pydantic import Field

from worker_image.contract.job_type import DatasetRef, JobType, ModelRef, SaeRef, group
from worker_image.contract.retention import RetentionPolicy

Hookpoint = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.\w+)*(:(in|out))?$", max_length=200)]
"""A place in a language model; see ``worker_image/lm/hookpoints.py`` for how it is written."""


ACTIVATIONS = group("Activations")


class ReadingParams(JobType):
    """The language model, its text, and how one is read by the other."""

    network: bool = False
    """Whether the container may use the network; a model or dataset named by hub id needs it."""

    model: ModelRef
    """Language model: a name under <home>/models, a path, or a Hugging Face hub id."""
    dataset: DatasetRef
    """Text to harvest activations from: .jsonl, .txt, .parquet or .arrow files. One by name under <home>/datasets or by
    path, a directory of them or what datasets' save_to_disk wrote, a pattern such as web/*.parquet, or a hub id."""
    text_field: str = Field(default="text", min_length=1)
    """Key of the text in each JSONL line, column of a table; a .txt file is split at blank lines."""
    context_length: int = Field(default=128, ge=2, le=131_072)
    """Tokens per sequence given to the language model."""
    packing: bool = Field(default=False, json_schema_extra=ACTIVATIONS)
    """Fill every sequence with as many documents as it holds, a separator between them; else each holds (part of)
    one."""
    bos: Literal["auto", "always", "never"] = Field(default="auto", json_schema_extra=ACTIVATIONS)
    """Whether a sequence begins with the tokenizer's first special token; auto does as the tokenizer."""
    drop_first_position: bool = Field(default=False, json_schema_extra=ACTIVATIONS)
    """Leave out the first position of every sequence, whose activations are unlike all others in many models. Special
    tokens are left out in any case."""
    held_out_tokens: int = Field(default=16_384, ge=1)
    """Tokens of whole documents set aside, on which results are measured."""
    held_out_seed: int = Field(default=0, ge=0, le=2**63 - 1, json_schema_extra=ACTIVATIONS)
    """Seed by which those documents are drawn: not that of training, so that jobs of several seeds share activations
    and can be compared."""
    harvest_batch_size: int = Field(default=32, ge=1, le=4096)
    """Sequences of full context length per forward pass of the language model; of shorter ones as many more as make
    the same number of tokens."""
    model_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the language model's forward pass."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of every random choice."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU when there is one."""


class ActivationParams(ReadingParams):
    """What jobs say besides that keep activations, to train on them."""

    max_tokens: int | None = Field(default=None, ge=1)
    """Distinct training tokens taken from the dataset before it repeats; all of them when empty."""
    activation_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, json_schema_extra=ACTIVATIONS
    )
    """Precision in which activations are kept, in memory or in the cache; the model's when empty."""
    cache: Literal["auto", "on", "off"] = Field(default="auto", json_schema_extra=ACTIVATIONS)
    """Keep activations on disk, where every job finds them that reads the same dataset with the same model in the same
    way. auto does where they fit; off harvests them anew, while training goes on."""


class TrainedSaeParams(ReadingParams):
    """A trained autoencoder, and the places in the language model that it belongs to."""

    sae: SaeRef
    """The autoencoder: job:ID of the job that trained it, job:ID/sae_2 of one that trained several, a folder under
    <home>/saes or by path, in any format that is read."""
    hookpoints: list[Hookpoint] = Field(default_factory=list, max_length=64, json_schema_extra=ACTIVATIONS)
    """Where it reads, side by side for a crosscoder; as its files tell when empty."""
    target_hookpoint: Hookpoint | None = Field(default=None, json_schema_extra=ACTIVATIONS)
    """Where what a transcoder predicts belongs; as its files tell when empty."""

    @property
    def retention(self) -> RetentionPolicy:
        """A bookmark says all that the one before it did."""
        return RetentionPolicy(newest=1, every_steps=None, first=False, best=False)
