"""The optimisers that torch has not, and the choice among all.

Shapes: M, N = the sides of a weight matrix.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from worker_image.sae.config import SaeConfig

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, chosen by Muon's authors for the steepest slope at 0."""

_NEWTON_SCHULZ_STEPS = 5


def build_optimizer(config: SaeConfig, groups: Iterable[dict[str, Any]]) -> Optimizer:
    """The optimiser that ``config`` asks for, over groups of parameters."""
    adam: dict[str, Any] = {"betas": (config.first_moment_decay, config.beta2), "eps": config.eps}
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(groups, lr=config.peak_lr, fused=True, **adam)
        case "adamw":
            return torch.optim.AdamW(groups, lr=config.peak_lr, weight_decay=config.weight_decay, fused=True, **adam)
        case "sgd":
            return torch.optim.SGD(groups, lr=config.peak_lr, momentum=config.momentum, fused=True)
        case "signum":
            return Signum(groups, lr=config.peak_lr, momentum=config.momentum)
        case "muon":
            return Muon(groups, lr=config.peak_lr, momentum=config.momentum, **adam)


class Signum(Optimizer):
    """The sign of the averaged gradient (arXiv 1802.04434): every weight moves by the rate."""

    def __init__(self, params: Iterable[dict[str, Any]], *, lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = _averaged(self.state[parameter], parameter.grad, group["momentum"])
                    parameter.sub_(mean.sign(), alpha=group["lr"])


class Muon(Optimizer):
    """Weight matrices move along the orthogonalised average of their gradients (Jordan et al., 2024), all else by Adam.

    The step of an (M, N) matrix is scaled by sqrt(max(1, M / N)), as its authors do.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.ndim == 2:
                    self._orthogonal_step(parameter, group)
                else:
                    self._adam_step(parameter, group)

    def _orthogonal_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        grad_MN = parameter.grad
        assert grad_MN is not None
        mean_MN = _averaged(self.state[parameter], grad_MN, group["momentum"])
        # Nesterov: look ahead along the average before orthogonalising.
        ahead_MN = grad_MN.lerp(mean_MN, group["momentum"])
        scale = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
        parameter.sub_(orthogonalised(ahead_MN), alpha=group["lr"] * scale)

    def _adam_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        grad, state = parameter.grad, self.state[parameter]
        assert grad is not None
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        state["exp_avg"].lerp_(grad, 1 - beta1)
        state["exp_avg_sq"].lerp_(grad.square(), 1 - beta2)
        first = state["exp_avg"] / (1 - beta1 ** state["step"])
        second = state["exp_avg_sq"] / (1 - beta2 ** state["step"])
        parameter.sub_(first / (second.sqrt() + group["eps"]), alpha=group["lr"])


def orthogonalised(g_MN: Tensor) -> Tensor:
    """Nearly the orthogonal matrix closest to ``g_MN``: singular values between 0.7 and 1.2; zeros stay zeros."""
    a, b, c = _NEWTON_SCHULZ
    x = g_MN.T if g_MN.shape[0] > g_MN.shape[1] else g_MN
    x = x / x.norm().clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g_MN.shape[0] > g_MN.shape[1] else x


def _averaged(state: dict[str, Tensor], grad: Tensor, momentum: float) -> Tensor:
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(grad)
    return state["momentum_buffer"].lerp_(grad, 1 - momentum)
