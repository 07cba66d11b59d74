"""Where activations come from: parameters shared by every job that reads them from a language model."""

from typing import Annotated, Literal

from pydantic import Field

from worker_image.contract.job_type import DatasetRef, JobType, ModelRef

Hookpoint = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.\w+)*(:(in|out))?$", max_length=200)]
"""A place in a language model; see ``worker_image/lm/hookpoints.py`` for how it is written."""


class ActivationParams(JobType):
    """The language model, its text, and how one is read by the other."""

    network: bool = False
    """Whether the container may use the network; a model or dataset named by hub id needs it."""

    model: ModelRef
    """Language model: a name under <home>/models, a path, or a Hugging Face hub id."""
    dataset: DatasetRef
    """Text to harvest activations from: a .jsonl or .txt file, by name under <home>/datasets or by path."""
    text_field: str = Field(default="text", min_length=1)
    """Key of the text in each JSONL line; a .txt file is split at blank lines."""
    context_length: int = Field(default=128, ge=2, le=131_072)
    """Tokens per sequence given to the language model."""
    harvest_batch_size: int = Field(default=32, ge=1, le=4096)
    """Sequences of full context length per forward pass of the language model; of shorter ones as many more as make
    the same number of tokens."""
    model_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the language model's forward pass."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of every random choice."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
