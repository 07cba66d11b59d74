"""What a job would take."""

from typing import Literal

from pydantic import Field

from orchestrator.views.base import View


class ComponentView(View):
    """One thing that takes memory or disk."""

    name: str
    size_bytes: int
    field: str | None
    """The parameter that it grows with most."""


class AdviceView(View):
    """One change after which it fits."""

    field: str
    value: int | str
    saves_bytes: int


class PoolView(View):
    """Memory of one kind, or disk."""

    pool: Literal["gpu", "host", "disk"]
    total_bytes: int
    limit_bytes: int | None
    """What there is for the job; empty where that cannot be told."""
    fits: bool
    components: list[ComponentView]
    """Largest first."""
    advice: list[AdviceView] = Field(default_factory=list)
    """Where it does not fit: single changes that suffice, the least harmful first."""


class EstimateView(View):
    """What a job would take, before it runs."""

    fits: bool
    device: str
    """Name of the GPU, or "cpu"."""
    d_in: int
    d_sae: int
    """Latents of the widest autoencoder."""
    saes: int
    """Autoencoders it trains."""
    training_tokens: int
    """That each autoencoder learns from, repetitions included."""
    harvested_tokens: int
    """That the language model reads, repetitions included."""
    pools: list[PoolView]
    seconds: float
    """From start to end."""
    measured_jobs: int
    """Earlier jobs on such a device whose duration went into it; with none it is from figures on paper."""
    gpu_hours: float
    cost: float | None
    """In the currency of SAEFORGE_GPU_HOUR_PRICE; empty when that is not set."""
    warnings: list[str]
