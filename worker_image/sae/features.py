"""What latents react to, gathered batch by batch: nothing here loops over tokens or latents.

Shapes: B tokens of a batch, A latents that are looked at (a latent's index among them is its slot), N firings of a
batch, M examples of a batch, K examples kept of each latent, E examples in all, T tokens around an example.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from worker_image.sae.code import Code

BINS = 64
"""Of a histogram; a latent uses at least half of them."""


@dataclass(frozen=True)
class Firings:
    """Activations above 0 of the latents that are looked at, token by token, slots ascending within each."""

    row_N: Tensor
    slot_N: Tensor
    value_N: Tensor
    n_slots: int

    @classmethod
    def of(cls, code: Code, slot_F: Tensor, n_slots: int) -> "Firings":
        """``slot_F``: slot of each latent, ascending; -1 for those that are not looked at."""
        pattern = code.places.pattern
        if pattern is None:
            row_N, latent_N = code.acts_P.nonzero(as_tuple=True)
            value_N = code.acts_P[row_N, latent_N]
        else:
            row_N, latent_N, value_N = pattern.row_N, pattern.latent_N, code.acts_P
        slot_N = slot_F[latent_N]
        looked_at_N = (slot_N >= 0) & (value_N > 0)
        return cls(row_N[looked_at_N], slot_N[looked_at_N], value_N[looked_at_N].float(), n_slots)

    def at(self, row_E: Tensor, slot_E: Tensor) -> Tensor:
        """Activations at these places, 0 where there is none; a row of -1 is no token. Any shape."""
        # Rows and, within them, slots ascend: the keys are sorted as they come.
        key_N = self.row_N * self.n_slots + self.slot_N
        wanted_E = row_E * self.n_slots + slot_E
        if not len(key_N):
            return torch.zeros_like(wanted_E, dtype=torch.float32)
        place_E = torch.searchsorted(key_N, wanted_E).clamp_max(len(key_N) - 1)
        return torch.where((key_N[place_E] == wanted_E) & (row_E >= 0), self.value_N[place_E], 0.0)


@dataclass(frozen=True)
class Examples:
    """For some latents the place in some sequence where that activates it most."""

    slot_M: Tensor
    value_M: Tensor
    sequence_M: Tensor
    """Number of the sequence among all."""
    position_M: Tensor
    """Index of the token in it."""

    @classmethod
    def of(cls, firings: Firings, sequence_B: Tensor, position_B: Tensor) -> "Examples":
        """One for each pair of latent and sequence; of equal activations the earlier token.

        ``sequence_B``, ``position_B``: where each row of the firings is.
        """
        by_value = firings.value_N.sort(descending=True, stable=True).indices
        pair_N = sequence_B[firings.row_N] * firings.n_slots + firings.slot_N
        sorted_N, within_N = pair_N[by_value].sort(stable=True)
        order_N = by_value[within_N]
        first_N = torch.ones_like(sorted_N, dtype=torch.bool)
        first_N[1:] = sorted_N[1:] != sorted_N[:-1]
        chosen_M = order_N[first_N]
        row_M = firings.row_N[chosen_M]
        return cls(firings.slot_N[chosen_M], firings.value_N[chosen_M], sequence_B[row_M], position_B[row_M])

    def draws(self, n_slots: int, seed: int) -> Tensor:
        """A number from 0 to 1 for each, which the example and the seed alone decide: (M,) float64.

        However the sequences are batched, the examples of highest number are thus the same random sample.
        """
        mixed_M = self.sequence_M * n_slots + self.slot_M + seed * 0x1E3779B97F4A7C15
        for multiplier in (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15):  # SplitMix64's, as signed numbers
            mixed_M = (mixed_M ^ ((mixed_M >> 30) & 0x3FFFFFFFF)) * multiplier
        return (mixed_M ^ ((mixed_M >> 31) & 0x1FFFFFFFF)).bitwise_and(2**53 - 1).double() / 2**53


class Best:
    """The K examples of highest priority of each latent."""

    def __init__(self, n_slots: int, k: int, device: torch.device) -> None:
        def full(value: float, dtype: torch.dtype) -> Tensor:
            return torch.full((n_slots, k), value, dtype=dtype, device=device)

        self.k = k
        self._priority_AK = full(-torch.inf, torch.float64)
        self.value_AK = full(0, torch.float32)
        self.sequence_AK = full(-1, torch.int64)
        """-1 where there are fewer than K."""
        self.position_AK = full(0, torch.int64)

    def state(self) -> dict[str, Tensor]:
        """Those held, for ``restore``."""
        return {
            "priority_AK": self._priority_AK,
            "value_AK": self.value_AK,
            "sequence_AK": self.sequence_AK,
            "position_AK": self.position_AK,
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` gave."""
        for name, held_AK in self.state().items():
            held_AK.copy_(state[name])

    def add(self, examples: Examples, priority_M: Tensor) -> None:
        """Take in those of a batch. Of equal priority, the earlier sequence goes first."""
        if not len(priority_M) or not self.k:
            return
        # Before long nearly all fall short of what is held, and sorting is what takes the time.
        within_reach_M = (priority_M >= self._priority_AK[examples.slot_M, -1]).nonzero().squeeze(1)
        if not len(within_reach_M):
            return
        by_priority = within_reach_M[priority_M[within_reach_M].sort(descending=True, stable=True).indices]
        slot_M, within_M = examples.slot_M[by_priority].sort(stable=True)
        order_M = by_priority[within_M]
        slot_U, count_U = slot_M.unique_consecutive(return_counts=True)
        group_M = torch.arange(len(slot_U), device=slot_M.device).repeat_interleave(count_U)
        rank_M = torch.arange(len(slot_M), device=slot_M.device) - (count_U.cumsum(0) - count_U)[group_M]
        kept_M = rank_M < self.k
        place = group_M[kept_M], rank_M[kept_M]
        order_M = order_M[kept_M]

        def beside(held_AK: Tensor, new_M: Tensor, empty: float) -> Tensor:
            new_UK = held_AK.new_full((len(slot_U), self.k), empty)
            new_UK[place] = new_M[order_M].to(held_AK)
            return torch.cat([held_AK[slot_U], new_UK], dim=1)

        by_sequence_UK = beside(self.sequence_AK, examples.sequence_M, -1).sort(dim=1, stable=True).indices
        priority_UK = beside(self._priority_AK, priority_M, -torch.inf).gather(1, by_sequence_UK)
        priority_UK, within_UK = priority_UK.sort(dim=1, descending=True, stable=True)
        best_UK = by_sequence_UK.gather(1, within_UK)[:, : self.k]
        for held_AK, new_M, empty in (
            (self.value_AK, examples.value_M, 0),
            (self.sequence_AK, examples.sequence_M, -1),
            (self.position_AK, examples.position_M, 0),
        ):
            held_AK[slot_U] = beside(held_AK, new_M, empty).gather(1, best_UK)
        self._priority_AK[slot_U] = priority_UK[:, : self.k]


class Histograms:
    """How often each latent's activations are how large.

    Bins have one width and begin at 0. Where an activation lies beyond the last one, neighbouring bins are joined until
    it does not; widths are BINS-th parts of powers of two, so that they do not depend on what came first.
    """

    def __init__(self, n_slots: int, device: torch.device) -> None:
        self.width_A = torch.zeros(n_slots, dtype=torch.float64, device=device)
        self.counts_AH = torch.zeros(n_slots, BINS, dtype=torch.int64, device=device)

    def add(self, firings: Firings) -> None:
        """Count those of a batch."""
        highest_A = torch.zeros_like(self.width_A)
        highest_A.scatter_reduce_(0, firings.slot_N, firings.value_N.double(), "amax")
        needed_A = torch.where(highest_A > 0, highest_A.log2().ceil().exp2() / BINS, 0.0)
        self.width_A = torch.where(self.width_A == 0, needed_A, self.width_A)
        while (grown_A := needed_A > self.width_A).any():
            joined = self.counts_AH[grown_A].unflatten(1, (BINS // 2, 2)).sum(2)
            self.counts_AH[grown_A] = torch.cat([joined, torch.zeros_like(joined)], dim=1)
            self.width_A[grown_A] *= 2
        bin_N = (firings.value_N.double() / self.width_A[firings.slot_N]).long().clamp_max(BINS - 1)
        place_N = firings.slot_N * BINS + bin_N
        self.counts_AH.view(-1).index_add_(0, place_N, torch.ones_like(place_N))


class Gathering:
    """All that is kept while tokens are looked at for the first time."""

    def __init__(self, latents: Tensor, d_sae: int, *, top: int, sampled: int, seed: int) -> None:
        """``latents``: those that are looked at, ascending, on the device. ``sampled``: examples drawn at random."""
        n_slots, device = len(latents), latents.device
        self.latent_A = latents
        self.slot_F = torch.full((d_sae,), -1, dtype=torch.int64, device=device)
        self.slot_F[latents] = torch.arange(n_slots, device=device)
        self.top = Best(n_slots, top, device)
        self.sample = Best(n_slots, sampled, device)
        self.histograms = Histograms(n_slots, device)
        self.firings_A = torch.zeros(n_slots, dtype=torch.int64, device=device)
        self.sum_A = torch.zeros(n_slots, dtype=torch.float64, device=device)
        self.tokens = 0
        self._seed = seed

    def state(self) -> dict[str, Tensor]:
        """All that was gathered so far, for ``restore``."""
        return {
            **{f"top.{name}": held_AK for name, held_AK in self.top.state().items()},
            **{f"sample.{name}": held_AK for name, held_AK in self.sample.state().items()},
            "width_A": self.histograms.width_A,
            "counts_AH": self.histograms.counts_AH,
            "firings_A": self.firings_A,
            "sum_A": self.sum_A,
            "tokens": torch.tensor(self.tokens),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` gave."""
        for best, prefix in ((self.top, "top."), (self.sample, "sample.")):
            best.restore({name.removeprefix(prefix): held for name, held in state.items() if name.startswith(prefix)})
        self.histograms.width_A.copy_(state["width_A"])
        self.histograms.counts_AH.copy_(state["counts_AH"])
        self.firings_A.copy_(state["firings_A"])
        self.sum_A.copy_(state["sum_A"])
        self.tokens = int(state["tokens"])

    def firings(self, code: Code) -> Firings:
        """Those of the latents that are looked at."""
        return Firings.of(code, self.slot_F, len(self.latent_A))

    def add(self, code: Code, sequence_B: Tensor, position_B: Tensor) -> None:
        """Take in a batch; ``sequence_B``, ``position_B`` tell where its tokens are. A sequence is in one batch."""
        found = self.firings(code)
        self.tokens += len(sequence_B)
        self.firings_A.index_add_(0, found.slot_N, torch.ones_like(found.slot_N))
        self.sum_A.index_add_(0, found.slot_N, found.value_N.double())
        self.histograms.add(found)
        examples = Examples.of(found, sequence_B, position_B)
        self.top.add(examples, examples.value_M.double())
        self.sample.add(examples, examples.draws(len(self.latent_A), self._seed))


@torch.no_grad()
def nearest(W_dec_FE: Tensor, latents: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(latent, cosine) of the ``k`` others whose decoder rows point most nearly the same way as each of ``latents``."""
    rows_FE = torch.nn.functional.normalize(W_dec_FE, dim=1)
    cosine_AF = rows_FE[latents] @ rows_FE.T
    cosine_AF[torch.arange(len(latents), device=latents.device), latents] = -torch.inf
    cosine_AK, latent_AK = cosine_AF.topk(min(k, len(rows_FE) - 1), dim=1)
    return latent_AK, cosine_AK
