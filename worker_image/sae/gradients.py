"""What gradients look like: figures that tell a healthy training from one that stalls or explodes."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

_DEAD = 1e-8
"""A gradient entry smaller than this moves nothing."""


@torch.no_grad()
def gradient_statistics(
    parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], before: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Metric name -> value, for each parameter that has a gradient.

    ``grad/<parameter>/``: ``l2`` and ``linf`` norms; ``dead_share`` of entries below 1e-8; ``snr``, the size of the
    mean over the standard deviation; ``mean``, ``min``; ``cosine`` with the gradient of the step before, where
    ``before`` has it. ``weight/<parameter>/not_finite``: entries that are NaN or infinite.
    """
    found: dict[str, Tensor] = {}
    for name, gradient in gradients.items():
        flat = gradient.detach().flatten()
        size, mean = flat.abs(), flat.mean()
        found |= {
            f"grad/{name}/l2": flat.norm(),
            f"grad/{name}/linf": size.max(),
            f"grad/{name}/dead_share": (size < _DEAD).float().mean(),
            f"grad/{name}/snr": mean.abs() / flat.std(correction=0).clamp_min(torch.finfo(flat.dtype).tiny),
            f"grad/{name}/mean": mean,
            f"grad/{name}/min": flat.min(),
            f"weight/{name}/not_finite": (~parameters[name].isfinite()).sum(),
        }
        if name in before:
            found[f"grad/{name}/cosine"] = functional.cosine_similarity(flat, before[name].flatten(), dim=0)
    return found


@torch.no_grad()
def unmoved_shares(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weight/<parameter>/unmoved_share``: entries that a step left as they were."""
    return {f"weight/{name}/unmoved_share": (after[name] == old).float().mean() for name, old in before.items()}
