"""What is measured, each thing defined once. Measuring changes nothing.

Shapes: B tokens, D width, F = d_sae.
"""

from torch import Tensor
from torch.nn import functional


def squared_error(x_BD: Tensor, y_BD: Tensor) -> Tensor:
    """Sum of squared differences; ``y_BD`` may broadcast."""
    # One pass forwards and one backwards, where the three operations spelt out make five.
    return functional.mse_loss(x_BD, y_BD.expand_as(x_BD), reduction="sum")


def fvu(x_BD: Tensor, x_hat_BD: Tensor) -> Tensor:
    """Fraction of variance unexplained: sum (x - x_hat)^2 / sum (x - mean x)^2. NaN when ``x_BD`` has no variance."""
    return squared_error(x_BD, x_hat_BD) / squared_error(x_BD, x_BD.mean(0))


def dead_latents(tokens_since_fired_F: Tensor, tokens_trained: int, dead_after_tokens: int) -> Tensor:
    """Which latents are dead: (F,) bool.

    Dead means not having fired for ``dead_after_tokens`` training tokens or, early in training, for all there were;
    otherwise a run shorter than the limit would report no dead latent whatever its quality.
    """
    return tokens_since_fired_F >= max(1, min(dead_after_tokens, tokens_trained))
