"""The ``sae_features`` job type."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from worker_image.contract.activations import TrainedSaeParams
from worker_image.contract.commands import CommandType
from worker_image.contract.job_type import BASIC, group, recommended

_FEATURES = group("Features")


class SaeFeaturesParams(TrainedSaeParams):
    """What a trained autoencoder's latents react to: examples, histograms, logit effects and neighbours of each."""

    title: ClassVar[str] = "SAE features"
    commands: ClassVar[frozenset[CommandType]] = frozenset({"pause", "stop"})
    resumable: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True

    type: Literal["sae_features"] = "sae_features"
    tokens: int = Field(default=1_000_000, ge=1, le=100_000_000, json_schema_extra=recommended(100_000, 10_000_000))
    """Tokens of the dataset that are looked at, up to the end of a sequence, the held-out ones left aside. Their ids
    are held in memory."""
    latents: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=list, max_length=65_536, json_schema_extra=BASIC | _FEATURES
    )
    """Latents to look at; all of them when empty."""
    top_examples: int = Field(default=12, ge=1, le=200, json_schema_extra=_FEATURES)
    """Sequences kept of each latent, those that activate it most."""
    quantiles: int = Field(default=5, ge=1, le=20, json_schema_extra=_FEATURES)
    """Groups of equal size, by activation, that a random sample of the sequences that activate it is cut into."""
    examples_per_quantile: int = Field(default=3, ge=0, le=50, json_schema_extra=_FEATURES)
    """Examples of each of these groups."""
    context_tokens: int = Field(default=10, ge=0, le=200, json_schema_extra=_FEATURES)
    """Tokens shown before and behind the one that activates a latent most."""
    effects: int = Field(default=10, ge=0, le=100, json_schema_extra=_FEATURES)
    """Tokens listed that a latent makes likeliest, and as many it makes unlikeliest, where the model predicts any."""
    neighbours: int = Field(default=5, ge=0, le=100, json_schema_extra=_FEATURES)
    """Latents listed whose decoder rows point the same way."""
