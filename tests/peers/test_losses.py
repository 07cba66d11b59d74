"""Losses and gradients are those of the other libraries, in float64, where these agree with the papers.

Where they do not, the term is left out, for a reason:

- sparsify's encoder drops the gradient of pre-activations, so that AuxK and Multi-TopK teach its decoder alone; and it
  divides AuxK by the variance of the target, not of the residual.
- SAELens does not divide AuxK by anything; it does not freeze the decoder in Gated's auxiliary term; its quadratic
  JumpReLU loss is a mean over tokens, not of the mean L0.
- dictionary_learning takes the straight-through estimator of JumpReLU's L0 after the jump, where half its window is
  gone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.peers.environment import run_program
from worker_image.sae.config import SaeConfig
from worker_image.sae.dead import auxk_loss
from worker_image.sae.families import build_sae
from worker_image.sae.metrics import squared_error
from worker_image.sae.model import FamilyLoss, Output, Sae
from worker_image.sae.whole_batch import WholeBatch

D, F, K = 6, 24, 2


@dataclass(frozen=True)
class Step:
    """One batch, and what our code makes of it."""

    sae: Sae
    x_BD: Tensor
    y_BE: Tensor
    dead_S: Tensor
    out: Output
    losses: FamilyLoss

    @property
    def variance(self) -> Tensor:
        """Sum of squares about the mean, per token: turns an FVU into a mean squared error."""
        return squared_error(self.y_BE, self.y_BE.mean(0)) / len(self.y_BE)

    @property
    def residual_variance(self) -> Tensor:
        residual_BE = (self.y_BE - self.out.y_hat_BE).detach()
        return squared_error(residual_BE, residual_BE.mean(0)) / len(residual_BE)

    @property
    def auxk(self) -> Tensor:
        return auxk_loss(self.sae, self.x_BD, self.y_BE, self.out, self.dead_S)

    @property
    def sparsity(self) -> Tensor:
        assert self.losses.sparsity is not None
        return self.losses.sparsity

    @property
    def extra(self) -> Tensor:
        assert self.losses.extra is not None
        return self.losses.extra


@dataclass(frozen=True)
class Term:
    """A term of theirs in terms of ours."""

    ours: Callable[[Step], Tensor]
    weights: frozenset[str] | None = None
    """Weights whose gradients are compared; all when None."""
    single: bool = False
    """Whether they work it out in float32 whatever the weights are."""


@dataclass(frozen=True)
class Case:
    config: Mapping[str, object]
    terms: Mapping[str, Term]
    input_norm: float = 1.0
    """Puts the recipe's units in place of the activations' own."""


DECODER = frozenset({"W_dec_FE"})
FVU = Term(lambda step: step.losses.reconstruction)
SQUARED = Term(lambda step: step.losses.reconstruction * step.variance)
AUXK = Term(lambda step: step.auxk, single=True)
NESTED = {"family": "matryoshka", "matryoshka_fractions": (0.25, 0.25, 0.5)}
APRIL = {"family": "standard", "l1_recipe": "april_2024"}
TANH = {"family": "jumprelu", "jumprelu_recipe": "tanh", "jumprelu_bandwidth": 0.3}

CASES: Mapping[tuple[str, str], Case] = {
    ("sparsify", "topk"): Case(
        {"family": "topk"},
        {"fvu": FVU, "auxk": Term(lambda step: step.auxk * step.residual_variance / step.variance, DECODER)},
    ),
    ("sparsify", "multi_topk"): Case(
        {"family": "topk", "multi_topk": True}, {"fvu": FVU, "multi": Term(lambda step: 8 * step.extra, DECODER)}
    ),
    ("sparsify", "skip_transcoder"): Case({"family": "topk", "d_out": D, "skip_connection": True}, {"fvu": FVU}),
    ("dictionary_learning", "topk"): Case({"family": "topk"}, {"reconstruction": SQUARED, "auxk": AUXK}),
    ("dictionary_learning", "batch_topk"): Case({"family": "batch_topk"}, {"reconstruction": SQUARED, "auxk": AUXK}),
    ("dictionary_learning", "matryoshka"): Case(NESTED, {"reconstruction": SQUARED}),
    ("dictionary_learning", "standard"): Case(
        {"family": "standard", "l1_recipe": "unit_norm"},
        {"total": Term(lambda step: step.losses.reconstruction + 0.3 * step.sparsity)},
    ),
    ("dictionary_learning", "standard_april"): Case(
        APRIL, {"total": Term(lambda step: step.losses.reconstruction + 0.3 * step.sparsity)}, input_norm=D**0.5
    ),
    ("dictionary_learning", "gated"): Case(
        {"family": "gated"},
        {"total": Term(lambda step: step.losses.reconstruction + 0.3 * step.sparsity + step.extra)},
    ),
    ("dictionary_learning", "jumprelu"): Case(
        {"family": "jumprelu", "jumprelu_recipe": "quadratic", "jumprelu_bandwidth": 0.3}, {"reconstruction": SQUARED}
    ),
    ("saelens", "standard_april"): Case(
        APRIL,
        {"mse_loss": FVU, "l1_loss": Term(lambda step: step.sparsity)},
        input_norm=D**0.5,
    ),
    ("saelens", "topk"): Case(
        {"family": "topk"},
        {
            "mse_loss": SQUARED,
            "auxiliary_reconstruction_loss": Term(lambda step: step.auxk * step.residual_variance),
        },
    ),
    ("saelens", "batch_topk"): Case(
        {"family": "batch_topk"},
        {
            "mse_loss": SQUARED,
            "auxiliary_reconstruction_loss": Term(lambda step: step.auxk * step.residual_variance),
        },
    ),
    ("saelens", "matryoshka"): Case(
        NESTED, {"mse_loss": Term(lambda step: 3 * step.losses.reconstruction * step.variance)}
    ),
    ("saelens", "jumprelu_tanh"): Case(
        TANH,
        {
            "mse_loss": FVU,
            "l0_loss": Term(lambda step: step.sparsity),
            "pre_act_loss": Term(lambda step: step.extra),
        },
        input_norm=D**0.5,
    ),
}


@cache
def told(library: str) -> dict[str, Tensor]:
    """What ``library`` computed, once for all its cases."""
    with TemporaryDirectory() as folder:
        run_program("lose", library, Path(folder) / "told.safetensors")
        return load_file(Path(folder) / "told.safetensors")


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def taken(case: Case, theirs: Mapping[str, Tensor]) -> Step:
    """A step of ours with their weights on their batch."""
    sae = build_sae(SaeConfig(**({"d_in": D, "d_sae": F, "k": K} | dict(case.config)))).double()  # type: ignore[arg-type]
    weights = under(theirs, "weight/")
    if "threshold_F" in weights:
        weights["log_threshold_F"] = weights.pop("threshold_F").log()
        sae.log_threshold_F.data = sae.log_threshold_F.data.double()
    missing, unexpected = sae.load_state_dict(weights, strict=False)
    assert set(missing) <= {"input_norm", "threshold", "b_dec_E"}
    assert not unexpected
    sae.input_norm.fill_(case.input_norm)
    x_BD = theirs["x"]
    y_BE = theirs.get("y", x_BD)
    out = sae(x_BD)
    return Step(sae, x_BD, y_BE, theirs["dead"], out, sae.losses(x_BD, y_BE, out, theirs["dead"], WholeBatch(y_BE)))


def gradient(loss: Tensor, sae: Sae, name: str) -> Tensor:
    """By ``name``, as the other library has that weight."""
    parameter = sae.get_parameter("log_threshold_F" if name == "threshold_F" else name)
    [found] = torch.autograd.grad(loss, parameter, retain_graph=True, allow_unused=True)
    if found is None:
        return torch.zeros_like(parameter)
    return found / parameter.exp() if name == "threshold_F" else found


def close(ours: Tensor, theirs: Tensor, single: bool, about: str) -> None:
    tolerance = 1e-5 if single else 1e-9
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance / 1000, msg=lambda text: f"{about}: {text}")


@pytest.mark.parametrize(("library", "name"), CASES)
def test_losses_and_gradients_are_theirs(library: str, name: str) -> None:
    case, theirs = CASES[library, name], under(told(library), f"{name}/")
    step = taken(case, theirs)
    for term, ours in case.terms.items():
        loss = ours.ours(step)
        assert loss.dtype == torch.float64
        close(loss, theirs[f"loss/{term}"], ours.single, term)
        gradients = under(theirs, f"gradient/{term}/")
        for weight in ours.weights or gradients.keys():
            close(gradient(loss, step.sae, weight), gradients[weight], ours.single, f"{term}, gradient of {weight}")
        assert any(value.count_nonzero() for value in gradients.values()), f"{term} teaches nothing"


@pytest.mark.parametrize("library", ["sparsify", "dictionary_learning", "saelens"])
def test_every_case_of_a_library_is_compared(library: str) -> None:
    assert {name.partition("/")[0] for name in told(library)} == {name for kind, name in CASES if kind == library}
