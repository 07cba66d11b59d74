"""What training minimises: reconstruction + coefficient * sparsity + the family's own + what is done for the dead.

The loss of a batch in parts is the sum of its parts' contributions. ``survey`` finds what those are relative to.

Shapes: B tokens, D = d_in, E = width_out, S = dead latents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from worker_image.sae.dead import auxk_loss, ghost_error, ghost_loss, ghost_weight
from worker_image.sae.model import Output, Sae
from worker_image.sae.whole_batch import Part, Spread, WholeBatch


@dataclass(frozen=True)
class Coefficients:
    """Weights that may be changed while training."""

    sparsity: Tensor | float
    """Weight of the sparsity loss, before its warm-up."""
    auxk_alpha: float
    """Weight of the AuxK loss."""


@dataclass(frozen=True)
class Loss:
    """The loss and its parts; a part that the training does not have is None."""

    total: Tensor
    reconstruction: Tensor
    sparsity: Tensor | None = None
    """Before its weight."""
    extra: Tensor | None = None
    """The family's own further term, with its weight."""
    auxk: Tensor | None = None
    """AuxK before its weight; 0 when no latent is dead."""
    ghost: Tensor | None = None
    """Ghost gradients' term; 0 when no latent is dead."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "Loss":
        """Every part changed in the same way."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: None if part is None else change(part) for name, part in parts.items()}
        return Loss(**changed)

    def plus(self, other: "Loss") -> "Loss":
        """Part by part; both have the same."""
        parts = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        sums: dict[str, Any] = {name: None if one is None else one + two for name, (one, two) in parts.items()}
        return Loss(**sums)

    def detached(self) -> "Loss":
        """The same numbers without their history."""
        return self.map(Tensor.detach)


def loss_of(
    sae: Sae,
    x_BD: Tensor,
    y_BE: Tensor,
    out: Output,
    dead_S: Tensor,
    weights: Coefficients,
    whole: WholeBatch | None = None,
) -> Loss:
    """The loss of one batch, or what a part contributes to that of the ``whole`` one. ``dead_S`` are the indices of the
    dead latents, possibly none; ``weights.sparsity`` is the coefficient of this step, after its warm-up."""
    whole = WholeBatch(y_BE) if whole is None else whole
    family = sae.losses(x_BD, y_BE, out, dead_S, whole)
    total = family.reconstruction
    if family.sparsity is not None:
        total = total + weights.sparsity * family.sparsity
    if family.extra is not None:
        total = total + family.extra
    auxk = ghost = None
    if sae.config.dead_policy == "auxk" and weights.auxk_alpha:
        auxk = auxk_loss(sae, x_BD, y_BE, out, dead_S, whole.residual_variance)
        total = total + weights.auxk_alpha * auxk
    if sae.config.dead_policy == "ghost":
        if whole.ghost_weight is None:
            ghost = ghost_loss(sae, x_BD, y_BE, out, dead_S, family.reconstruction)
        else:
            error = ghost_error(sae, x_BD, y_BE, out, dead_S)
            ghost = error * (len(x_BD) / whole.tokens) * whole.ghost_weight
        total = total + ghost
    return Loss(total, family.reconstruction, family.sparsity, family.extra, auxk, ghost)


@torch.no_grad()
def survey(sae: Sae, y_BE: Tensor, parts: Sequence[Part], dead_S: Tensor, weights: Coefficients) -> WholeBatch:
    """What the losses of ``parts`` are relative to. Where that takes the reconstruction of all, it is worked out here,
    a part at a time, and once more when it is differentiated."""
    whole = WholeBatch(y_BE)
    policy = sae.config.dead_policy if len(dead_S) else "none"
    has_auxk, has_ghost = policy == "auxk" and weights.auxk_alpha != 0, policy == "ghost"
    if not (sae.aims_at_l0 or has_auxk or has_ghost):
        return whole
    active = reconstruction = error = y_BE.new_zeros(())
    left_over = Spread(y_BE[0])
    for part in parts:
        x_BD, out = part.x_BD, sae(part.x_BD, chosen=part.chosen)
        active = active + out.code.n_active
        if has_auxk:
            left_over.add(part.y_BE - out.y_hat_BE)
        if has_ghost:
            reconstruction = reconstruction + sae.losses(x_BD, part.y_BE, out, dead_S, whole).reconstruction
            error = error + ghost_error(sae, x_BD, part.y_BE, out, dead_S) * (len(x_BD) / whole.tokens)
    return replace(
        whole,
        l0=active / whole.tokens,
        residual_variance=left_over.total if has_auxk else None,
        ghost_weight=ghost_weight(error, reconstruction) if has_ghost else None,
    )
