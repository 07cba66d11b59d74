"""One training step, and all the state that the next one depends on.

Shapes: B tokens, D = d_in, E = width_out, F = d_sae, S dead latents.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from worker_image.sae.checkpoint import SaeState
from worker_image.sae.config import SaeConfig
from worker_image.sae.controller import L0Control, L0Controller
from worker_image.sae.dead import resample
from worker_image.sae.families import build_sae
from worker_image.sae.gradients import gradient_statistics, unmoved_shares
from worker_image.sae.losses import Coefficients, Loss, loss_of, survey
from worker_image.sae.metrics import dead_latents, squared_error, total_variance
from worker_image.sae.optimisers import build_optimizer
from worker_image.sae.precision import RoundedWeights
from worker_image.sae.schedule import coefficient_factor, lr_factor
from worker_image.sae.whole_batch import Part, WholeBatch, cut

_CONTROLLER = "l0_controller."
"""Before the names of what an L0 controller remembers, in a checkpoint; ..."""
_MASTER = "master."
"""... of the float32 weights behind rounded ones; ..."""
_BEFORE = "gradient_before."
"""... of gradients that the next step's are compared with."""

MOST_HALVINGS = 3
"""So often the part of a batch that is differentiated at once is halved for want of GPU memory."""


class OptimizerOutOfMemory(torch.cuda.OutOfMemoryError):
    """Moments, or what works on them, do not fit beside weights and gradients; some weights may have moved."""


@dataclass(frozen=True)
class StepOutcome:
    """What one step saw. Tensors stay on the device until someone looks."""

    loss: Loss
    l0: Tensor
    d_sae: int
    lr: float
    coefficient: Tensor | float
    """Weight of the sparsity loss in this step."""
    fvu: Tensor | None
    """Of the batch; None where it was not asked for."""
    grad_norm: Tensor | None = None
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    """Of gradients and weights, where they were due."""

    def values(self) -> dict[str, float]:
        """Metric name -> value."""
        l0 = self.l0.item()
        found = {
            "loss": self.loss.total.item(),
            "reconstruction_loss": self.loss.reconstruction.item(),
            "l0": l0,
            "l0_share": l0 / self.d_sae,
            "lr": self.lr,
        }
        if self.loss.sparsity is not None:
            found |= {"sparsity_loss": self.loss.sparsity.item(), "sparsity_coefficient": float(self.coefficient)}
        for name, part in (
            ("fvu", self.fvu),
            ("extra_loss", self.loss.extra),
            ("auxk_loss", self.loss.auxk),
            ("ghost_loss", self.loss.ghost),
            ("grad_norm", self.grad_norm),
        ):
            if part is not None:
                found[name] = part.item()
        return found | {name: float(value) for name, value in self.statistics.items()}


@dataclass(frozen=True)
class Differentiated:
    """What differentiating a batch, or a part of it, saw."""

    loss: Loss
    l0: Tensor
    """Active latents, divided by the tokens of the whole batch."""
    fired_F: Tensor
    squared_error: Tensor | None
    """Of the reconstruction, summed; None where it was not asked for."""

    def plus(self, other: "Differentiated") -> "Differentiated":
        """Both parts together."""
        error = None
        if self.squared_error is not None and other.squared_error is not None:
            error = self.squared_error + other.squared_error
        return Differentiated(self.loss.plus(other.loss), self.l0 + other.l0, self.fired_F | other.fired_F, error)


class Trainer:
    """An SAE, its optimiser, its coefficients, and the count of tokens since each latent fired."""

    def __init__(self, config: SaeConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.sae = build_sae(config, device)
        self._optimizer = build_optimizer(config, self._parameter_groups())
        self._rounded = RoundedWeights(self.sae, config.weights_dtype) if config.weights_dtype != "float32" else None
        self.peak_lr = config.peak_lr
        self.coefficients = Coefficients(config.initial_coefficient, config.auxk_alpha)
        self._controller: L0Controller | None = None
        if config.controlled_l0 is not None:
            control = L0Control.over(config.controlled_l0, config.steps)
            self._controller = L0Controller(control, config.initial_coefficient, device)
        self.step = 0
        self.tokens_trained = 0
        self.tokens_since_fired_F = torch.zeros(config.d_sae, dtype=torch.int64, device=device)
        self._tokens_at_resampling = 0
        self._last_loss: Tensor | None = None
        self.micro_batch_size = config.micro_batch_size
        """Tokens differentiated at once; smaller than was asked for once a GPU had no memory for so many."""
        self.skipped_steps = 0
        """Steps not taken because their loss was not finite."""
        self._halvings = 0
        self._lost_in_a_row = 0
        self._gradients_before: dict[str, Tensor] = {}

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self.peak_lr * lr_factor(self.step, self.config)

    @property
    def coefficient(self) -> Tensor | float:
        """Weight of the sparsity loss in the next step."""
        held = self.coefficients.sparsity if self._controller is None else self._controller.coefficient
        return held * coefficient_factor(self.step, self.config)

    @property
    def last_loss(self) -> float | None:
        """Loss of the latest step; None before the first."""
        return None if self._last_loss is None else self._last_loss.item()

    @property
    def lost_in_a_row(self) -> int:
        """Latest steps that were skipped, one after the other."""
        return self._lost_in_a_row

    @property
    def is_patient(self) -> bool:
        """Whether no more steps in a row were lost than may be."""
        return self._lost_in_a_row <= self.config.nan_patience

    @property
    def lost_parameter(self) -> str | None:
        """Name of a parameter that is not finite; None where all are."""
        # One sum instead of a look at each entry: it is finite only if all are.
        sums = {name: parameter.detach().sum() for name, parameter in self.sae.named_parameters()}
        return next((name for name, total in sums.items() if not total.isfinite()), None)

    @property
    def dead_count(self) -> int:
        """Dead latents, see ``dead_latents``; 0 before the first step."""
        if not self.tokens_trained:
            return 0
        return int(dead_latents(self.tokens_since_fired_F, self.tokens_trained, self.config.dead_after_tokens).sum())

    def differentiate(self, x_BD: Tensor, y_BE: Tensor | None = None, *, measure: bool = False) -> Differentiated:
        """Leave the loss's gradients in the parameters. ``y_BE``: a transcoder's target.

        Where a GPU's memory does not hold the batch it is taken in smaller parts, whose gradients are the same in sum.

        Raises:
            torch.cuda.OutOfMemoryError: not even an eighth of it fits.
        """
        y_BE = x_BD if y_BE is None else y_BE
        while True:
            try:
                return self._summed_gradients(x_BD, y_BE, measure=measure)
            except torch.cuda.OutOfMemoryError:
                size = min(self.micro_batch_size or len(x_BD), len(x_BD))
                self._optimizer.zero_grad(set_to_none=True)
                if self._halvings == MOST_HALVINGS or size == 1:
                    raise
                self._halvings += 1
                self.micro_batch_size = (size + 1) // 2
            # Only here is the traceback gone, which held on to what the failed part had allocated.
            torch.cuda.empty_cache()

    def rehearse(self, x_BD: Tensor, y_BE: Tensor | None = None) -> None:
        """Differentiate a batch and forget it: what fits only now, beside other things, says nothing of later steps.

        Raises:
            torch.cuda.OutOfMemoryError: not even an eighth of it fits.
        """
        size, halvings = self.micro_batch_size, self._halvings
        try:
            self.differentiate(x_BD, y_BE)
        finally:
            self.micro_batch_size, self._halvings = size, halvings
            self._optimizer.zero_grad(set_to_none=True)

    def train_step(self, x_BD: Tensor, y_BE: Tensor | None = None, *, measure: bool = False) -> StepOutcome:
        """Learn from one batch. With ``measure`` what costs a pass of its own is reported too: FVU, gradient norm.

        Raises:
            torch.cuda.OutOfMemoryError: not even an eighth of the batch fits; nothing was learned.
            OptimizerOutOfMemory: the batch fits, and the optimiser's state does not.
        """
        coefficient = self.coefficient
        target_BE = x_BD if y_BE is None else y_BE
        batch = self.differentiate(x_BD, target_BE, measure=measure)
        lr = self.lr
        outcome = StepOutcome(
            batch.loss,
            batch.l0,
            self.config.d_sae,
            lr,
            coefficient,
            fvu=None if batch.squared_error is None else batch.squared_error / total_variance(target_BE),
        )
        if self._is_lost(batch.loss):
            self._optimizer.zero_grad(set_to_none=True)
            self.step += 1
            return outcome
        grad_norm, statistics = self._descend(lr, measure=measure)
        if self._controller is not None:
            # What the coefficient does shows only once it has risen.
            risen = coefficient_factor(self.step, self.config) == 1
            self._controller.observe(batch.l0, lr_factor(self.step, self.config) if risen else 0.0)
        self.tokens_since_fired_F += len(x_BD)
        self.tokens_since_fired_F.masked_fill_(batch.fired_F, 0)
        self.step += 1
        self.tokens_trained += len(x_BD)
        self._last_loss = batch.loss.total
        if self.config.dead_policy == "resample":
            self._resample_when_due(x_BD, target_BE)
        return replace(outcome, grad_norm=grad_norm, statistics=statistics)

    def _summed_gradients(self, x_BD: Tensor, y_BE: Tensor, *, measure: bool) -> Differentiated:
        self._optimizer.zero_grad(set_to_none=True)
        weights = replace(self.coefficients, sparsity=self.coefficient)
        dead_S = self._dead_S()
        parts = self._parts(x_BD, y_BE)
        whole = WholeBatch(y_BE) if len(parts) == 1 else survey(self.sae, y_BE, parts, dead_S, weights)
        found: Differentiated | None = None
        for part in parts:
            out = self.sae(part.x_BD, chosen=part.chosen)
            loss = loss_of(self.sae, part.x_BD, part.y_BE, out, dead_S, weights, whole)
            loss.total.backward()
            with torch.no_grad():
                error = squared_error(part.y_BE, out.y_hat_BE) if measure else None
                seen = Differentiated(loss.detached(), out.code.n_active / len(x_BD), out.code.fired_F, error)
                found = seen if found is None else found.plus(seen)
        assert found is not None
        return found

    @torch.no_grad()
    def _parts(self, x_BD: Tensor, y_BE: Tensor) -> list[Part]:
        size = self.micro_batch_size or len(x_BD)
        if size >= len(x_BD):
            return [Part(x_BD, y_BE)]
        return cut(x_BD, y_BE, size, self.sae.choose(self.sae.centred(x_BD)))

    def _is_lost(self, loss: Loss) -> bool:
        """Whether the step is to be skipped because its loss or a gradient is not finite."""
        if not self.config.nan_patience:
            return False
        gradients = [parameter.grad for parameter in self.sae.parameters() if parameter.grad is not None]
        # One sum instead of a look at each entry: it is finite only if all are.
        if (loss.total + sum(gradient.sum() for gradient in gradients)).isfinite():
            self._lost_in_a_row = 0
            return False
        self._lost_in_a_row += 1
        self.skipped_steps += 1
        if not self.is_patient:
            self._last_loss = torch.full_like(loss.total, float("nan"))
        return True

    def _descend(self, lr: float, *, measure: bool) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Move the weights along the gradients that are there; return the gradient's norm and statistics, if due."""
        if self._rounded is not None:
            self._rounded.unround()
        statistics, before = self._look_at_gradients()
        if self.sae.holds_unit_norm:
            self.sae.remove_parallel_gradient()
        clip, grad_norm = self.config.grad_clip, None
        if clip is not None or measure:
            gradients = [parameter.grad for parameter in self.sae.parameters() if parameter.grad is not None]
            grad_norm = torch.nn.utils.get_total_norm(gradients)
        if clip is not None and grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.sae.parameters(), clip, grad_norm)
        self._move(lr)
        if self.sae.holds_unit_norm:
            self.sae.normalise_decoder()
        if before:
            statistics |= unmoved_shares(before, dict(self.sae.named_parameters()))
        if self._rounded is not None:
            self._rounded.take_over()
            if self._rounded.stalled_share is not None:
                statistics["bit_stall_share"] = self._rounded.stalled_share
        return grad_norm, statistics

    def _move(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["rate_scale"]
        try:
            self._optimizer.step()
        except torch.cuda.OutOfMemoryError as error:
            # Smaller parts of the batch would not help: its activations are gone already.
            raise OptimizerOutOfMemory(str(error)) from error

    def _look_at_gradients(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Statistics of the loss's own gradients, and the weights before the step; both empty unless they are due."""
        every = self.config.gradient_statistics_every_steps
        if every is None:
            return {}, {}
        parameters = dict(self.sae.named_parameters())
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        found: dict[str, Tensor] = {}
        before: dict[str, Tensor] = {}
        if (self.step + 1) % every == 0:
            found = gradient_statistics(parameters, gradients, self._gradients_before)
            before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        is_next = (self.step + 2) % every == 0
        self._gradients_before = {name: gradient.clone() for name, gradient in gradients.items()} if is_next else {}
        return found, before

    def reconfigure(self, values: Mapping[str, object]) -> None:
        """Take up other coefficients from the next step on. What is no field of the config is not the trainer's."""
        mine = {name: value for name, value in values.items() if name in SaeConfig.__dataclass_fields__}
        self.config = self.sae.config = replace(self.config, **mine)  # type: ignore[arg-type]
        if "lr" in mine:
            self.peak_lr = self.config.peak_lr
        if "sparsity_coefficient" in mine:
            self.coefficients = replace(self.coefficients, sparsity=self.config.initial_coefficient)
            if self.config.controlled_l0 is None:
                # Nothing but the recipe's own target was held, and a coefficient that is named stands for itself.
                self._controller = None
            elif self._controller is not None:
                self._controller.move_to(self.config.initial_coefficient)
        if "target_l0" in mine:
            self._retarget()
        if "auxk_alpha" in mine:
            self.coefficients = replace(self.coefficients, auxk_alpha=self.config.auxk_alpha)

    def _retarget(self) -> None:
        """Have a controller, or none, as the config says; either goes on from the coefficient in force."""
        wanted = self.config.controlled_l0
        if wanted is None:
            if self._controller is not None:
                self.coefficients = replace(self.coefficients, sparsity=self._controller.coefficient.item())
            self._controller = None
            return
        control = L0Control.over(wanted, self.config.steps)
        if self._controller is None:
            device = self.tokens_since_fired_F.device
            self._controller = L0Controller(control, self.config.initial_coefficient, device)
            self._controller.move_to(float(self.coefficients.sparsity))
        self._controller.control = control

    def state(self) -> SaeState:
        """All that ``restore`` needs, tensors shared, not copied: moments as ``optimizer.<parameter>.<moment>``."""
        moments = {
            f"optimizer.{name}.{moment}": value
            for name, named in self._moments().items()
            for moment, value in named.items()
        }
        controlled = (
            {f"{_CONTROLLER}{name}": value for name, value in self._controller.state().items()}
            if self._controller is not None
            else {}
        )
        masters = self._rounded.state() if self._rounded is not None else {}
        kept = {f"{_MASTER}{name}": master for name, master in masters.items()}
        kept |= {f"{_BEFORE}{name}": gradient for name, gradient in self._gradients_before.items()}
        return SaeState(
            weights=dict(self.sae.state_dict()),
            training=moments | controlled | kept | {"tokens_since_fired": self.tokens_since_fired_F},
            values={
                "step": self.step,
                "tokens_trained": self.tokens_trained,
                "tokens_at_resampling": self._tokens_at_resampling,
                "peak_lr": self.peak_lr,
                "sparsity_coefficient": self.coefficients.sparsity,
                "auxk_alpha": self.coefficients.auxk_alpha,
                "loss": self.last_loss,
                "micro_batch_size": self.micro_batch_size,
                "skipped_steps": self.skipped_steps,
                "lost_in_a_row": self._lost_in_a_row,
                "halvings": self._halvings,
            },
        )

    def restore(self, state: SaeState) -> None:
        """Continue from ``state``.

        Raises:
            RuntimeError: it belongs to an autoencoder of another shape.
        """
        self.sae.load_state_dict(state.weights)
        for name, parameter in self.sae.named_parameters():
            if moments := _under(f"optimizer.{name}.", state.training):
                # Fused Adam keeps its step count on the parameter's device, like the moments.
                self._optimizer.state[parameter] = {k: v.clone().to(parameter.device) for k, v in moments.items()}
        self.tokens_since_fired_F.copy_(state.training["tokens_since_fired"])
        if self._controller is not None:
            self._controller.restore(_under(_CONTROLLER, state.training))
        device = self.tokens_since_fired_F.device
        self._gradients_before = {k: v.clone().to(device) for k, v in _under(_BEFORE, state.training).items()}
        if self._rounded is not None:
            self._rounded.restore(_under(_MASTER, state.training))
        values: dict[str, Any] = state.values
        self.micro_batch_size = values["micro_batch_size"]
        self.skipped_steps = values["skipped_steps"]
        self._lost_in_a_row = values["lost_in_a_row"]
        self._halvings = values["halvings"]
        self.step = values["step"]
        self.tokens_trained = values["tokens_trained"]
        self._tokens_at_resampling = values["tokens_at_resampling"]
        self.peak_lr = values["peak_lr"]
        self.coefficients = Coefficients(values["sparsity_coefficient"], values["auxk_alpha"])
        self._last_loss = None if values["loss"] is None else torch.tensor(values["loss"])

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser steps, by how fast it learns."""
        by_scale: dict[float, list[torch.nn.Parameter]] = {}
        for name, parameter in self.sae.named_parameters():
            by_scale.setdefault(self.sae.rate_scale(name), []).append(parameter)
        return [{"params": parameters, "rate_scale": scale} for scale, parameters in by_scale.items()]

    def _dead_S(self) -> Tensor:
        # No latent can be this long silent before that many tokens were seen, so nothing needs a warm-up of its own.
        return (self.tokens_since_fired_F >= self.config.dead_after_tokens).nonzero().squeeze(1)

    def _moments(self) -> dict[str, dict[str, Tensor]]:
        """Parameter name -> moment name -> the optimiser's own tensor."""
        return {name: dict(self._optimizer.state.get(p, {})) for name, p in self.sae.named_parameters()}

    def _resample_when_due(self, x_BD: Tensor, y_BE: Tensor) -> None:
        every = self.config.resample_every_tokens or self.config.dead_after_tokens
        if self.tokens_trained - self._tokens_at_resampling < every:
            return
        self._tokens_at_resampling = self.tokens_trained
        dead_S = self._dead_S()
        if not len(dead_S):
            return
        if self._rounded is not None:
            self._rounded.unround()
        residual_BE = self._residual(x_BD, y_BE)
        resample(self.sae, self._moments(), x_BD, residual_BE, dead_S, seed=self.config.seed + self.step)
        if self._rounded is not None:
            self._rounded.take_over()
        self.tokens_since_fired_F[dead_S] = 0

    @torch.no_grad()
    def _residual(self, x_BD: Tensor, y_BE: Tensor) -> Tensor:
        parts = self._parts(x_BD, y_BE)
        return torch.cat([part.y_BE - self.sae(part.x_BD, chosen=part.chosen).y_hat_BE for part in parts])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
