"""What was found of each latent, put into the words of the feature file.

Shapes: A latents looked at, K examples of each, X examples in all, C = tokens around an example, V = vocabulary.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from worker_image.contract.feature_file import (
    Effect,
    Example,
    FeatureBody,
    FeatureSummary,
    Group,
    Histogram,
    Neighbour,
)
from worker_image.contract.sae_features import SaeFeaturesParams
from worker_image.lm.tokens import Ids, Sequence
from worker_image.sae.features import Firings, Gathering, nearest
from worker_image.sae.model import Sae

_AT_ONCE = 256
"""Latents whose effects and neighbours are worked out together."""


class Windows:
    """Activations of each example's latent in the tokens around it."""

    def __init__(self, gathering: Gathering, reach: int) -> None:
        self._reach = reach
        sequence_AK = torch.cat([gathering.top.sequence_AK, gathering.sample.sequence_AK], dim=1).cpu()
        position_AK = torch.cat([gathering.top.position_AK, gathering.sample.position_AK], dim=1).cpu()
        self._number_AK = torch.full(sequence_AK.shape, -1, dtype=torch.int64)
        slot_X, rank_X = (sequence_AK >= 0).nonzero(as_tuple=True)
        # In the order of their sequences, as these are what is gone through.
        order_X = sequence_AK[slot_X, rank_X].sort(stable=True).indices
        slot_X, rank_X = slot_X[order_X], rank_X[order_X]
        self._number_AK[slot_X, rank_X] = torch.arange(len(slot_X))
        self._slot_X, self._sequence_X = slot_X, sequence_AK[slot_X, rank_X]
        self._position_X = position_AK[slot_X, rank_X]
        self._acts_XC = torch.zeros(len(slot_X), 2 * reach + 1)

    @property
    def acts_XC(self) -> Tensor:
        """Activations found so far; 0 elsewhere."""
        return self._acts_XC

    def restore(self, acts_XC: Tensor) -> None:
        """Go on from what ``acts_XC`` was."""
        self._acts_XC.copy_(acts_XC)

    @property
    def sequences(self) -> Tensor:
        """Numbers of the sequences that hold examples, ascending."""
        return self._sequence_X.unique_consecutive()

    def fill(self, firings: Firings, sequences: list[int], kept: list[Ids]) -> None:
        """Take in the firings of a pass over these sequences, whose ``kept`` positions are its rows."""
        chosen = torch.tensor(sequences)
        bounds = torch.searchsorted(self._sequence_X, torch.stack([chosen, chosen + 1])).tolist()
        counts = [end - begin for begin, end in zip(*bounds, strict=True)]
        example_X = torch.cat([torch.arange(begin, end) for begin, end in zip(*bounds, strict=True)])
        longest = max(int(each[-1]) for each in kept) + 1
        # One column more than there are positions on either side, where no token is.
        row_ST = np.full((len(kept), longest + 2 * self._reach), -1, dtype=np.int64)
        start = 0
        for nth, each in enumerate(kept):
            row_ST[nth, each + self._reach] = np.arange(start, start + len(each))
            start += len(each)
        nth_X = torch.arange(len(kept)).repeat_interleave(torch.tensor(counts))
        around_XC = self._position_X[example_X][:, None] + torch.arange(2 * self._reach + 1)
        row_XC = torch.from_numpy(row_ST)[nth_X[:, None], around_XC].to(firings.row_N.device)
        slot_X1 = self._slot_X[example_X][:, None].to(firings.row_N.device)
        self._acts_XC[example_X] = firings.at(row_XC, slot_X1.expand_as(row_XC)).cpu()

    def example(self, slot: int, rank: int, sequences: list[Sequence]) -> Example | None:
        """The example of a latent, those of highest activation first and then the sample; none if there are fewer."""
        number = int(self._number_AK[slot, rank])
        if number < 0:
            return None
        which, peak = int(self._sequence_X[number]), int(self._position_X[number])
        ids = sequences[which].ids
        begin, end = max(peak - self._reach, 0), min(peak + self._reach + 1, len(ids))
        acts = self._acts_XC[number, begin - peak + self._reach : end - peak + self._reach]
        return Example(
            tokens=ids[begin:end].tolist(),
            acts=[round(value, 4) for value in acts.tolist()],
            peak=peak - begin,
            sequence=which,
        )


class Telling:
    """Goes through the latents."""

    def __init__(
        self,
        params: SaeFeaturesParams,
        gathering: Gathering,
        windows: Windows,
        sequences: list[Sequence],
        sae: Sae,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self._params, self._gathering, self._windows = params, gathering, windows
        self._sequences, self._sae, self._tokenizer = sequences, sae, tokenizer
        self._top_value_AK = gathering.top.value_AK.cpu()
        self._sample_value_AK = gathering.sample.value_AK.cpu()
        self._firings_A = gathering.firings_A.tolist()
        self._sum_A = gathering.sum_A.tolist()
        self._width_A = gathering.histograms.width_A.tolist()
        self._counts_AH = gathering.histograms.counts_AH.cpu()
        self.texts: dict[int, str] = {index: str(tokenizer.decode([index])) for index in range(len(tokenizer))}
        """Of every token there is."""

    def features(
        self, unembedding_VE: Tensor | None, given_last: slice
    ) -> Iterator[tuple[FeatureSummary, FeatureBody]]:
        """Each latent looked at. ``given_last``: columns of the decoder whose effects on logits are told."""
        latent_A = self._gathering.latent_A
        for begin in range(0, len(latent_A), _AT_ONCE):
            latents = latent_A[begin : begin + _AT_ONCE]
            effects = self._effects(latents, unembedding_VE, given_last)
            near = self._neighbours(latents)
            for nth, latent in enumerate(latents.tolist()):
                promoted, suppressed = effects[nth] if effects else ([], [])
                yield self._feature(begin + nth, latent, promoted, suppressed, near[nth] if near else [])

    def _feature(
        self, slot: int, latent: int, promoted: list[Effect], suppressed: list[Effect], near: list[Neighbour]
    ) -> tuple[FeatureSummary, FeatureBody]:
        firings = self._firings_A[slot]
        groups = list(self._groups(slot))
        peak = ""
        if groups:
            best = groups[0].examples[0]
            peak = self.texts.get(best.tokens[best.peak], "")
        summary = FeatureSummary(
            latent=latent,
            density=firings / self._gathering.tokens,
            mean=self._sum_A[slot] / firings if firings else 0.0,
            max=float(self._top_value_AK[slot, 0]),
            peak=peak,
        )
        body = FeatureBody(
            firings=firings,
            histogram=Histogram(width=self._width_A[slot], counts=self._counts_AH[slot].tolist()),
            groups=groups,
            promoted=promoted,
            suppressed=suppressed,
            neighbours=near,
        )
        return summary, body

    def _groups(self, slot: int) -> Iterator[Group]:
        top = [self._windows.example(slot, rank, self._sequences) for rank in range(self._params.top_examples)]
        if found := [example for example in top if example is not None]:
            yield Group(name="top", examples=found)
        drawn = int((self._gathering.sample.sequence_AK[slot] >= 0).sum())
        ranks = self._sample_value_AK[slot, :drawn].sort(stable=True).indices.numpy()
        for nth, part in enumerate(np.array_split(ranks, self._params.quantiles), 1):
            sampled = (
                self._windows.example(slot, self._params.top_examples + int(rank), self._sequences) for rank in part
            )
            if examples := [example for example in sampled if example is not None]:
                yield Group(name=f"quantile {nth}", examples=examples)

    def _effects(
        self, latents: Tensor, unembedding_VE: Tensor | None, given: slice
    ) -> list[tuple[list[Effect], list[Effect]]]:
        if unembedding_VE is None:
            return []
        rows_AE = self._sae.W_dec_FE[latents][:, given].to(unembedding_VE)
        logits_AV = (rows_AE @ unembedding_VE.T).float()
        k = min(self._params.effects, logits_AV.shape[1])
        high, low = logits_AV.topk(k, dim=1), logits_AV.topk(k, dim=1, largest=False)
        return [
            (_told(*most), _told(*least))
            for most, least in zip(
                zip(high.indices.tolist(), high.values.tolist(), strict=True),
                zip(low.indices.tolist(), low.values.tolist(), strict=True),
                strict=True,
            )
        ]

    def _neighbours(self, latents: Tensor) -> list[list[Neighbour]]:
        if not self._params.neighbours:
            return []
        latent_AK, cosine_AK = nearest(self._sae.W_dec_FE, latents, self._params.neighbours)
        return [
            [Neighbour(latent=latent, cosine=round(cosine, 4)) for latent, cosine in zip(row, cosines, strict=True)]
            for row, cosines in zip(latent_AK.tolist(), cosine_AK.tolist(), strict=True)
        ]


def _told(tokens: list[int], logits: list[float]) -> list[Effect]:
    return [Effect(token=token, logit=round(logit, 4)) for token, logit in zip(tokens, logits, strict=True)]
