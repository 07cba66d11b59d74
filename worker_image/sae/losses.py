"""What training minimises: reconstruction + coefficient * sparsity + the family's own + what is done for the dead.

Shapes: B tokens, D = d_in, E = width_out, S = dead latents.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import Tensor

from worker_image.sae.dead import auxk_loss, ghost_loss
from worker_image.sae.model import Output, Sae


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
        return Loss(**{name: None if part is None else change(part) for name, part in parts.items()})

    def plus(self, other: "Loss") -> "Loss":
        """Part by part; both have the same."""
        parts = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return Loss(**{name: None if one is None else one + two for name, (one, two) in parts.items()})

    def detached(self) -> "Loss":
        """The same numbers without their history."""
        return self.map(Tensor.detach)


def loss_of(sae: Sae, x_BD: Tensor, y_BE: Tensor, out: Output, dead_S: Tensor, weights: Coefficients) -> Loss:
    """The loss of one batch. ``dead_S`` are the indices of the dead latents, possibly none; ``weights.sparsity`` is
    the coefficient of this step, after its warm-up."""
    family = sae.losses(x_BD, y_BE, out, dead_S)
    total = family.reconstruction
    if family.sparsity is not None:
        total = total + weights.sparsity * family.sparsity
    if family.extra is not None:
        total = total + family.extra
    auxk = ghost = None
    if sae.config.dead_policy == "auxk" and weights.auxk_alpha:
        auxk = auxk_loss(sae, x_BD, y_BE, out, dead_S)
        total = total + weights.auxk_alpha * auxk
    if sae.config.dead_policy == "ghost":
        ghost = ghost_loss(sae, x_BD, y_BE, out, dead_S, family.reconstruction)
        total = total + ghost
    return Loss(total, family.reconstruction, family.sparsity, family.extra, auxk, ghost)
