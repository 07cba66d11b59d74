"""The families: each a module with its encoding, its loss and what it learns besides; everything else is shared."""

import torch

from worker_image.sae.config import Family, SaeConfig
from worker_image.sae.families.batch_topk import BatchTopKSae
from worker_image.sae.families.gated import GatedSae
from worker_image.sae.families.jumprelu import JumpReluSae
from worker_image.sae.families.matryoshka import MatryoshkaSae
from worker_image.sae.families.standard import StandardSae
from worker_image.sae.families.topk import TopKSae
from worker_image.sae.model import Sae

FAMILIES: dict[Family, type[Sae]] = {
    "topk": TopKSae,
    "batch_topk": BatchTopKSae,
    "matryoshka": MatryoshkaSae,
    "jumprelu": JumpReluSae,
    "gated": GatedSae,
    "standard": StandardSae,
}
"""Name -> class."""


def build_sae(config: SaeConfig, device: torch.device | str = "cpu") -> Sae:
    """The autoencoder that ``config`` describes, with its initial weights."""
    return FAMILIES[config.family](config, device)
