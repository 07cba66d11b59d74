"""Where an autoencoder comes from, as far as it is known: what libraries note beside the weights."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Self


@dataclass(frozen=True)
class Provenance:
    """The activations that an autoencoder was trained on, and how."""

    model: str = ""
    """Language model, as it was asked for."""
    hookpoint: str = ""
    """Place whose activations are read; several side by side in a crosscoder are joined by a comma."""
    target_hookpoint: str = ""
    """Place that is predicted; empty when it is the same."""
    dataset: str = ""
    """Text."""
    context_length: int | None = None
    """Tokens per sequence."""
    prepend_bos: bool | None = None
    """Whether sequences began with a BOS token."""
    training: Mapping[str, object] = field(default_factory=dict)
    """How it was trained, for people to read: JSON values."""

    @property
    def layer(self) -> int | None:
        """Number of the block, when the hookpoint tells."""
        found = re.search(r"(?:^|\.)(?:layers?|h|blocks)\.(\d+)(?:\.|:|$)", self.hookpoint)
        return int(found[1]) if found else None

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """What ``to_json`` gave. Whatever else there is, as a later version may write, is left aside."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})  # type: ignore[arg-type]
