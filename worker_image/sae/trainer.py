"""One training step, and all the state that the next one depends on.

Shapes: B tokens, D = d_in, F = d_sae, K = k.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from worker_image.sae.checkpoint import SaeState
from worker_image.sae.config import SaeConfig
from worker_image.sae.losses import Loss, loss_of
from worker_image.sae.metrics import dead_latents, l0
from worker_image.sae.model import TopKSae
from worker_image.sae.schedule import lr_factor


@dataclass(frozen=True)
class StepOutcome:
    """What one step saw. Tensors stay on the device until someone looks."""

    loss: Loss
    acts_BK: Tensor
    lr: float
    grad_norm: Tensor | None

    def values(self) -> dict[str, float]:
        """Metric name -> value."""
        found = {
            "loss": self.loss.total.item(),
            "fvu": self.loss.reconstruction.item(),
            "auxk_loss": self.loss.auxk.item(),
            "l0": l0(self.acts_BK).item(),
            "lr": self.lr,
        }
        if self.grad_norm is not None:
            found["grad_norm"] = self.grad_norm.item()
        return found


class Trainer:
    """An SAE, its optimiser and the count of tokens since each latent fired."""

    def __init__(self, config: SaeConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.sae = TopKSae(config, device)
        optimizer = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        self._optimizer = optimizer(
            self.sae.parameters(),
            lr=config.peak_lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.peak_lr = config.peak_lr
        self.step = 0
        self.tokens_trained = 0
        self.tokens_since_fired_F = torch.zeros(config.d_sae, dtype=torch.int64, device=device)
        self._last_loss: Tensor | None = None

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self.peak_lr * lr_factor(self.step, self.config)

    @property
    def last_loss(self) -> float | None:
        """Loss of the latest step; None before the first."""
        return None if self._last_loss is None else self._last_loss.item()

    @property
    def dead_count(self) -> int:
        """Dead latents, see ``dead_latents``; 0 before the first step."""
        if not self.tokens_trained:
            return 0
        return int(dead_latents(self.tokens_since_fired_F, self.tokens_trained, self.config.dead_after_tokens).sum())

    def differentiate(self, x_BD: Tensor) -> tuple[Loss, Tensor, Tensor]:
        """Leave the loss's gradients in the parameters, changing nothing else; return (loss, acts_BK, idx_BK)."""
        self._optimizer.zero_grad(set_to_none=True)
        out = self.sae(x_BD)
        # No latent can be this long silent before that many tokens were seen, so AuxK needs no warm-up of its own.
        dead_S = (self.tokens_since_fired_F >= self.config.dead_after_tokens).nonzero().squeeze(1)
        loss = loss_of(self.sae, x_BD, out, dead_S)
        loss.total.backward()
        return Loss(*(part.detach() for part in loss)), out.acts_BK.detach(), out.idx_BK

    def train_step(self, x_BD: Tensor, *, measure: bool = False) -> StepOutcome:
        """Learn from one batch. With ``measure`` the gradient's norm is reported even if it is not clipped."""
        loss, acts_BK, idx_BK = self.differentiate(x_BD)
        self.sae.remove_parallel_gradient()
        grad_norm = None
        if self.config.grad_clip is not None or measure:
            limit = self.config.grad_clip if self.config.grad_clip is not None else float("inf")
            grad_norm = torch.nn.utils.clip_grad_norm_(self.sae.parameters(), limit)
        lr = self.lr
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self.sae.normalise_decoder()
        self.tokens_since_fired_F += len(x_BD)
        self.tokens_since_fired_F[idx_BK[acts_BK > 0]] = 0
        self.step += 1
        self.tokens_trained += len(x_BD)
        self._last_loss = loss.total
        return StepOutcome(loss, acts_BK, lr, grad_norm)

    def reconfigure(self, values: Mapping[str, object]) -> None:
        """Take up other coefficients from the next step on. What is no field of the config is not the trainer's."""
        mine = {name: value for name, value in values.items() if name in SaeConfig.__dataclass_fields__}
        self.config = self.sae.config = replace(self.config, **mine)  # type: ignore[arg-type]
        if "lr" in mine:
            self.peak_lr = self.config.peak_lr

    def state(self) -> SaeState:
        """All that ``restore`` needs; tensors are shared, not copied."""
        moments = {
            f"optimizer.{name}.{moment}": value
            for name, parameter in self.sae.named_parameters()
            for moment, value in self._optimizer.state.get(parameter, {}).items()
        }
        return SaeState(
            weights=dict(self.sae.state_dict()),
            training=moments | {"tokens_since_fired": self.tokens_since_fired_F},
            values={
                "step": self.step,
                "tokens_trained": self.tokens_trained,
                "peak_lr": self.peak_lr,
                "loss": self.last_loss,
            },
        )

    def restore(self, state: SaeState) -> None:
        """Continue from ``state``.

        Raises:
            RuntimeError: it belongs to an autoencoder of another shape.
        """
        self.sae.load_state_dict(state.weights)
        for name, parameter in self.sae.named_parameters():
            prefix = f"optimizer.{name}."
            moments = {
                key.removeprefix(prefix): value for key, value in state.training.items() if key.startswith(prefix)
            }
            if moments:
                # Fused Adam keeps its step count on the parameter's device, like the moments.
                self._optimizer.state[parameter] = {k: v.clone().to(parameter.device) for k, v in moments.items()}
        self.tokens_since_fired_F.copy_(state.training["tokens_since_fired"])
        values: dict[str, Any] = state.values
        self.step = values["step"]
        self.tokens_trained = values["tokens_trained"]
        self.peak_lr = values["peak_lr"]
        self._last_loss = None if values["loss"] is None else torch.tensor(values["loss"])
