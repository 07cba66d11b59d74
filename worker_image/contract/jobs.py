"""Job types: one frozen model each; the union at the end is the registry.

Validation, defaults, OpenAPI, the dashboard's form, the CLI's flags, the container's command and the commands a job
answers to all derive from these classes. Adding a job type is one class here, one module in ``worker_image/jobs/``
and one line in ``JobParams``.
"""

import re
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from worker_image.contract.commands import CommandType

ModelRef = Annotated[str, Field(min_length=1, max_length=512, json_schema_extra={"x-reference": "model"})]
"""A model: a name under ``<home>/models``, an absolute path under an allowed root, or a Hugging Face hub id."""

DatasetRef = Annotated[str, Field(min_length=1, max_length=512, json_schema_extra={"x-reference": "dataset"})]
"""A dataset: a name under ``<home>/datasets`` or an absolute path under an allowed root; ``.jsonl`` or ``.txt``."""


def _recommended(low: float, high: float) -> dict[str, Any]:
    """The narrow range the form recommends; the field's own bounds are what the API accepts."""
    return {"x-recommended": [low, high]}


_BASIC: dict[str, Any] = {"x-basic": True}
"""Marks a field that the form always shows, though no range of it is recommended."""


class JobType(BaseModel):
    """Parameters of one kind of job. Unknown fields are errors; instances never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())

    title: ClassVar[str]
    """What a person calls this job type."""
    commands: ClassVar[frozenset[CommandType]] = frozenset()
    """Commands its worker acknowledges while running."""
    resumable: ClassVar[bool] = False
    """Whether a new attempt can continue from a checkpoint of an earlier one: what pause needs."""
    uses_gpu: ClassVar[bool] = False
    """Whether one GPU is asked for when the submitter does not say."""

    type: str
    network: bool = False
    """Whether the container may use the network."""

    @classmethod
    def references(cls) -> dict[str, str]:
        """Field name -> ``"model"`` or ``"dataset"``, for the fields that name something on disk."""
        found: dict[str, str] = {}
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and isinstance(kind := extra.get("x-reference"), str):
                found[name] = kind
        return found

    def argv(self, run_dir: str, python: str = "python") -> tuple[str, ...]:
        """The command the container runs. ``run_dir`` is the attempt's directory as the container sees it."""
        return (python, "-m", "worker_image.run", run_dir)


class TrainSaeParams(JobType):
    """Train a TopK sparse autoencoder on the activations of a language model.

    Loss and defaults follow arXiv 2406.04093: normalised reconstruction error plus AuxK, which lets dead latents
    predict the residual.
    """

    title: ClassVar[str] = "Train SAE"
    commands: ClassVar[frozenset[CommandType]] = frozenset({"pause", "stop", "checkpoint", "set_learning_rate"})
    resumable: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True

    type: Literal["train_sae"] = "train_sae"
    network: bool = False
    """Whether the container may use the network; a model named by hub id needs it."""

    model: ModelRef
    """Language model: a name under <home>/models, a path, or a Hugging Face hub id."""
    dataset: DatasetRef
    """Text to harvest activations from: a .jsonl or .txt file, by name under <home>/datasets or by path."""
    text_field: str = Field(default="text", min_length=1)
    """Key of the text in each JSONL line; a .txt file is split at blank lines."""
    hookpoint: str = Field(
        default="layers.0", pattern=r"^[A-Za-z_][\w]*(\.[\w]+)*$", max_length=200, json_schema_extra=_BASIC
    )
    """Module whose output is learned: "layers.N" is the residual stream after block N whatever the architecture calls
    it ("layers.N.<rest>" a module inside it); any other name is a module path relative to the model."""

    expansion_factor: int = Field(default=8, ge=1, le=256, json_schema_extra=_recommended(4, 64))
    """Latents per input dimension: d_sae = d_in x expansion_factor."""
    k: int = Field(default=32, ge=1, le=4096, json_schema_extra=_recommended(16, 128))
    """Latents kept per token (L0)."""
    auxk_alpha: float = Field(default=1 / 32, ge=0, le=10)
    """Weight of the AuxK loss; 0 turns it off."""
    auxk_k: int | None = Field(default=None, ge=1)
    """Dead latents used by AuxK; d_in / 2 when empty."""
    dead_after_tokens: int = Field(default=10_000_000, ge=1)
    """A latent is dead, and AuxK starts reviving it, after this many training tokens without firing."""

    steps: int = Field(default=1000, ge=1, le=100_000_000, json_schema_extra=_BASIC)
    """Optimiser steps."""
    batch_size: int = Field(default=2048, ge=1, le=1_048_576, json_schema_extra=_recommended(64, 16384))
    """Tokens per optimiser step."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Distinct training tokens taken from the dataset before it repeats; all of them when empty."""
    held_out_tokens: int = Field(default=16_384, ge=1)
    """Tokens of whole documents set aside before training, on which the result is measured."""
    buffer_tokens: int = Field(default=524_288, ge=1)
    """Activations held and shuffled together; when every training token fits, they are harvested only once."""
    context_length: int = Field(default=128, ge=2, le=131_072)
    """Tokens per sequence given to the language model."""
    harvest_batch_size: int = Field(default=32, ge=1, le=4096)
    """Sequences of full context length per forward pass of the language model; of shorter ones as many more as make
    the same number of tokens."""

    optimizer: Literal["adam", "adamw"] = "adam"
    """Optimiser."""
    lr: float | None = Field(default=None, ge=1e-6, le=0.1, json_schema_extra=_recommended(1e-5, 1e-2))
    """Peak learning rate; 2e-4 / sqrt(d_sae / 16384) when empty."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam's first-moment decay."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam's second-moment decay."""
    eps: float = Field(default=6.25e-10, gt=0, le=1e-2)
    """Adam's denominator floor."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """Decoupled weight decay; only adamw takes a value above 0."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls over the last decay_fraction of training."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises from 0."""
    decay_fraction: float = Field(default=0.2, ge=0, le=1)
    """Share of training, at its end, over which the learning rate falls to 0 (unless constant)."""
    grad_clip: float | None = Field(default=None, gt=0)
    """Largest gradient norm; not clipped when empty."""

    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of every random choice."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    model_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the language model's forward pass; the SAE trains in float32."""
    log_every_steps: int = Field(default=10, ge=1, json_schema_extra=_recommended(1, 100))
    """Steps between metrics."""
    checkpoint_every_steps: int | None = Field(default=1000, ge=1, json_schema_extra=_recommended(100, 10_000))
    """Steps between checkpoints; none while training when empty (pause, stop and completion always write one)."""
    keep_checkpoints: int = Field(default=3, ge=1, le=1000)
    """Newest checkpoints kept."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.weight_decay > 0 and self.optimizer != "adamw":
            raise ValueError("weight_decay: only optimizer 'adamw' applies it; set optimizer to 'adamw' or leave it 0")
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps: {self.warmup_steps} exceeds steps ({self.steps}); lower it")
        if self.buffer_tokens < self.batch_size:
            raise ValueError(
                f"buffer_tokens: {self.buffer_tokens} is less than one batch ({self.batch_size}); raise it"
            )
        return self


class ContainerParams(JobType):
    """Run any command in any image that has a shell, with the same queue, log and limits."""

    title: ClassVar[str] = "Container"

    type: Literal["container"] = "container"

    image: str = Field(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9][\w./:@-]*$")
    """Image name as the engine knows it, e.g. "python:3.11-slim"."""
    command: Annotated[list[str], Field(min_length=1, max_length=1000)]
    """Program and arguments, one item each; no shell interprets them."""
    env: dict[str, str] = Field(default_factory=dict, json_schema_extra=_BASIC)
    """Environment variables. Not for secrets: they are stored with the job."""

    @model_validator(mode="after")
    def _env_names(self) -> Self:
        for name, value in self.env.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"env: {name!r} is not a variable name; use letters, digits and underscores")
            if "\0" in value:
                raise ValueError(f"env: the value of {name!r} holds a NUL character; remove it")
        if any("\0" in word for word in self.command):
            raise ValueError("command: an item holds a NUL character; remove it")
        return self

    def argv(self, run_dir: str, python: str = "python") -> tuple[str, ...]:
        return tuple(self.command)


JobParams = Annotated[TrainSaeParams | ContainerParams, Field(discriminator="type")]
"""The registry: every job type there is."""

job_params: TypeAdapter[TrainSaeParams | ContainerParams] = TypeAdapter(JobParams)
"""Parses ``{"type": ..., ...}`` into the right model."""

JOB_TYPES: dict[str, type[JobType]] = {
    model.model_fields["type"].default: model for model in get_args(get_args(JobParams)[0])
}
"""Type name -> its model, derived from the union."""
