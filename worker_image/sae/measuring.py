"""Measuring a deployed autoencoder on a stream of tokens, as a whole and at each of its hookpoints.

Shapes: B tokens, D = d_in, E = width_out, F = d_sae.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from worker_image.sae.evaluation import DENSE_SHARE
from worker_image.sae.metrics import cosine_similarity, density_shares, l2_ratio
from worker_image.sae.model import Output


@dataclass(frozen=True)
class Fidelity:
    """How close reconstructions are to what they reconstruct."""

    fvu: float
    """Sum of squared errors over that from the mean of all tokens."""
    cosine_similarity: float
    """Mean over tokens."""
    l2_ratio: float
    """Length of the reconstruction over that of the activation, mean over tokens."""

    def values(self) -> dict[str, float]:
        """Metric name -> value."""
        return {
            "fvu": self.fvu,
            "explained_variance": 1.0 - self.fvu,
            "cosine_similarity": self.cosine_similarity,
            "l2_ratio": self.l2_ratio,
        }


@dataclass(frozen=True)
class Measurement:
    """What was found."""

    whole: Fidelity
    parts: Mapping[str, Fidelity]
    """Hookpoint -> its own; of a crosscoder they differ."""
    mean_E: Tensor
    """Of what is reconstructed: float64."""
    firings_F: Tensor
    """For how many tokens each latent was active: int64, on the CPU."""
    tokens: int

    @property
    def densities(self) -> dict[float, float]:
        """Power of ten -> share of latents; see ``density_shares``."""
        return density_shares(self.firings_F, self.tokens)

    def values(self) -> dict[str, float]:
        """Metric name -> value."""
        latents = len(self.firings_F)
        l0 = int(self.firings_F.sum()) / self.tokens
        found = self.whole.values() | {
            "l0": l0,
            "l0_share": l0 / latents,
            "dead_share": int((self.firings_F == 0).sum()) / latents,
            "dense_share": int((self.firings_F > DENSE_SHARE * self.tokens).sum()) / latents,
        }
        if len(self.parts) > 1:
            for place, fidelity in self.parts.items():
                found |= {f"{name}/{place}": value for name, value in fidelity.values().items()}
        return found


class Measuring:
    """Adds up what batches show. Sums are kept in float64, whatever the batches are in."""

    def __init__(self, d_sae: int, parts: Mapping[str, slice]) -> None:
        """``parts``: hookpoint -> its columns of E."""
        width = max(part.stop for part in parts.values())
        self._parts = dict(parts)
        self._places = {"": slice(0, width), **self._parts}
        self.tokens = 0
        self._firings_F = torch.zeros(d_sae, dtype=torch.int64)
        self._mean_E = torch.zeros(width, dtype=torch.float64)
        self._scatter_E = torch.zeros(width, dtype=torch.float64)
        """Squared distances from the mean, summed over tokens."""
        self._error_E = torch.zeros(width, dtype=torch.float64)
        self._cosine = dict.fromkeys(self._places, 0.0)
        self._ratio = dict.fromkeys(self._places, 0.0)

    @torch.no_grad()
    def add(self, y_BE: Tensor, out: Output) -> None:
        """A batch of what was to be reconstructed, and what was made of it."""
        y_hat_BE = out.y_hat_BE
        self._error_E += (y_BE - y_hat_BE).double().square().sum(0).cpu()
        self._merge(y_BE.double())
        self._firings_F += out.code.firings_F.cpu()
        for place, part in self._places.items():
            self._cosine[place] += float(cosine_similarity(y_BE[:, part], y_hat_BE[:, part]).double().sum())
            self._ratio[place] += float(l2_ratio(y_BE[:, part], y_hat_BE[:, part]).double().sum())

    def _merge(self, y_BE: Tensor) -> None:
        """Chan et al.'s update of mean and scatter by a batch, which loses nothing to cancellation."""
        mean_E = y_BE.mean(0)
        scatter_E = (y_BE - mean_E).square().sum(0).cpu()
        between_E = mean_E.cpu() - self._mean_E
        total = self.tokens + len(y_BE)
        self._mean_E += between_E * (len(y_BE) / total)
        self._scatter_E += scatter_E + between_E.square() * (self.tokens * len(y_BE) / total)
        self.tokens = total

    def state(self) -> dict[str, Tensor]:
        """All sums so far, in host memory, for ``restore``."""
        return {
            "tokens": torch.tensor(self.tokens),
            "firings_F": self._firings_F.clone(),
            "mean_E": self._mean_E.clone(),
            "scatter_E": self._scatter_E.clone(),
            "error_E": self._error_E.clone(),
            "cosine": torch.tensor(list(self._cosine.values()), dtype=torch.float64),
            "ratio": torch.tensor(list(self._ratio.values()), dtype=torch.float64),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` gave."""
        self.tokens = int(state["tokens"])
        self._firings_F = state["firings_F"].clone()
        self._mean_E, self._scatter_E = state["mean_E"].clone(), state["scatter_E"].clone()
        self._error_E = state["error_E"].clone()
        self._cosine = dict(zip(self._places, state["cosine"].tolist(), strict=True))
        self._ratio = dict(zip(self._places, state["ratio"].tolist(), strict=True))

    def result(self) -> Measurement:
        """What was found so far; there has to be a token at least."""
        found = {
            place: Fidelity(
                fvu=_ratio(float(self._error_E[part].sum()), float(self._scatter_E[part].sum())),
                cosine_similarity=self._cosine[place] / self.tokens,
                l2_ratio=self._ratio[place] / self.tokens,
            )
            for place, part in self._places.items()
        }
        whole = found.pop("")
        return Measurement(whole, found, self._mean_E.clone(), self._firings_F.clone(), self.tokens)


def _ratio(error: float, scatter: float) -> float:
    return error / scatter if scatter else float("nan")
