"""What a language model loses when activations at some places are replaced by others.

Replaced are the tokens that are learned from, and no others: special tokens, which an autoencoder never saw, stay as
they are. What replaces them is worked out from a clean pass; for a single place that is the same as working it out on
the way, and the several places of a crosscoder could not be known on the way.

Shapes: B sequences, T positions, N replaced tokens, M predicted tokens, E = width of all replaced places together,
V = vocabulary.
"""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worker_image.lm.head import Headed
from worker_image.lm.hookpoints import Hookpoint
from worker_image.lm.tokens import Sequence

_MOST_LOGITS = 2**26
"""Numbers of a pass's predictions: 256 MiB, of which a few copies exist at once."""


@dataclass(frozen=True)
class Pass:
    """Some sequences as the model reads them at once, and what it is to predict of them."""

    ids_BT: Tensor
    mask_BT: Tensor
    kept_N: Tensor
    """Places in (B x T) of the tokens whose activations are replaced."""
    asked_M: Tensor
    """Places whose predictions count."""
    answer_M: Tensor
    """The tokens that should be predicted there."""


@dataclass
class Losses:
    """Sums over predicted tokens, by what was in place of the activations."""

    tokens: int = 0
    cross_entropy: dict[str, float] = field(default_factory=dict)
    divergence: dict[str, float] = field(default_factory=dict)
    """KL(clean || replaced)."""

    def mean(self, name: str) -> float:
        """Cross-entropy in nats a token."""
        return self.cross_entropy[name] / self.tokens

    def mean_divergence(self, name: str) -> float:
        """In nats a token."""
        return self.divergence[name] / self.tokens


def passes_of(
    sequences: Several[Sequence],
    headed: Headed,
    *,
    batch_tokens: int,
    pad_id: int,
    mask_id: int,
    share: float,
    seed: int,
) -> Iterator[Pass]:
    """The sequences as passes. Of a masked model's tokens ``share`` are masked, the same ones whatever the batches."""
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index].ids))
    budget = min(batch_tokens, max(_MOST_LOGITS // headed.vocabulary, 1))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * len(sequences[index].ids) > budget:
            yield _pass(batch, sequences, headed.kind == "masked", pad_id, mask_id, share, seed)
            batch = []
        batch.append(index)
    if batch:
        yield _pass(batch, sequences, headed.kind == "masked", pad_id, mask_id, share, seed)


def _pass(
    batch: list[int], sequences: Several[Sequence], masked: bool, pad_id: int, mask_id: int, share: float, seed: int
) -> Pass:
    longest = max(len(sequences[index].ids) for index in batch)
    ids_BT = np.full((len(batch), longest), pad_id, dtype=np.int64)
    mask_BT = np.zeros((len(batch), longest), dtype=np.int64)
    kept: list[np.ndarray] = []
    asked: list[np.ndarray] = []
    answers: list[np.ndarray] = []
    for row, index in enumerate(batch):
        sequence = sequences[index]
        ids_BT[row, : len(sequence.ids)] = sequence.ids
        mask_BT[row, : len(sequence.ids)] = 1
        kept.append(row * longest + sequence.kept)
        if masked:
            drawn = np.random.default_rng((seed, index)).random(len(sequence.kept)) < share
            places = sequence.kept[drawn]
            asked.append(row * longest + places)
            answers.append(sequence.ids[places])
            ids_BT[row, places] = mask_id
        else:
            places = sequence.kept[sequence.kept > 0]
            asked.append(row * longest + places - 1)
            answers.append(sequence.ids[places])
    return Pass(
        torch.from_numpy(ids_BT),
        torch.from_numpy(mask_BT),
        *(torch.from_numpy(np.concatenate(parts).astype(np.int64)) for parts in (kept, asked, answers)),
    )


class Splice:
    """Runs a model with something else in place of its activations."""

    def __init__(
        self, headed: Headed, read: Several[Hookpoint], written: Several[Hookpoint], device: torch.device
    ) -> None:
        """``read``: places whose activations are looked at; ``written``: those that are replaced."""
        self._headed, self._read, self._written, self._device = headed, tuple(read), tuple(written), device

    @torch.no_grad()
    def add_to(
        self, losses: Losses, given: Pass, reconstruct: Callable[[Tensor], Tensor], others: dict[str, Tensor]
    ) -> None:
        """Measure a pass clean, ``spliced`` with what ``reconstruct`` makes of (N, D), and with each of ``others``,
        which are one row for all tokens: (E,)."""
        given = replace(given, **{name: value.to(self._device) for name, value in vars(given).items()})
        if not len(given.asked_M):
            return
        caught: dict[int, Tensor] = {}
        with ExitStack() as hooks:
            for index, place in enumerate(self._read):
                hooks.callback(_look(self._headed.body, place, given.kept_N, index, caught))
            clean_MV = self._predictions(given)
        x_ND = torch.cat([caught[index] for index in range(len(self._read))], dim=1)
        replaced = {"spliced": reconstruct(x_ND)}
        replaced |= {name: row_E.expand(len(x_ND), -1) for name, row_E in others.items()}
        self._sum(losses, "clean", clean_MV, clean_MV, given)
        for name, y_NE in replaced.items():
            with ExitStack() as hooks:
                # Several are of one width: the SAE is a crosscoder.
                parts = y_NE.chunk(len(self._written), dim=1)
                for place, part_NE in zip(self._written, parts, strict=True):
                    hooks.callback(_put(self._headed.body, place, given.kept_N, part_NE))
                self._sum(losses, name, clean_MV, self._predictions(given), given)
        losses.tokens += len(given.asked_M)

    def _predictions(self, given: Pass) -> Tensor:
        logits_BTV = self._headed.model(input_ids=given.ids_BT, attention_mask=given.mask_BT).logits
        return logits_BTV.flatten(0, 1)[given.asked_M].float().log_softmax(dim=1)

    @staticmethod
    def _sum(losses: Losses, name: str, clean_MV: Tensor, found_MV: Tensor, given: Pass) -> None:
        lost = -found_MV.gather(1, given.answer_M[:, None]).double().sum()
        losses.cross_entropy[name] = losses.cross_entropy.get(name, 0.0) + float(lost)
        apart = (clean_MV.exp() * (clean_MV - found_MV)).double().sum()
        losses.divergence[name] = losses.divergence.get(name, 0.0) + float(apart)


def _look(
    body: nn.Module, place: Hookpoint, kept_N: Tensor, index: int, caught: dict[int, Tensor]
) -> Callable[[], None]:
    def see(hidden_BTD: Tensor) -> None:
        caught.setdefault(index, hidden_BTD.flatten(0, 1)[kept_N])

    return _hooked(body, place, see)


def _put(body: nn.Module, place: Hookpoint, kept_N: Tensor, y_NE: Tensor) -> Callable[[], None]:
    def write(hidden_BTD: Tensor) -> Tensor:
        rows = hidden_BTD.flatten(0, 1).clone()
        rows[kept_N] = y_NE.to(rows)
        return rows.view_as(hidden_BTD)

    return _hooked(body, place, write)


def _hooked(body: nn.Module, place: Hookpoint, change: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
    """Have ``change`` see the activations at ``place``, and what it gives put in their stead."""
    module = body.get_submodule(place.path)

    def given(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if args:
            changed = change(args[0])
            return None if changed is None else ((changed, *args[1:]), kwargs)
        name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
        changed = change(kwargs[name])
        return None if changed is None else (args, kwargs | {name: changed})

    def gives(_module: nn.Module, _args: object, output: object) -> object:
        # Blocks of many architectures return a tuple: hidden states first, then caches or attention weights.
        if isinstance(output, tuple | list):
            changed = change(output[0])
            return None if changed is None else type(output)((changed, *output[1:]))
        return change(output)  # type: ignore[arg-type]

    if place.side == "in":
        return module.register_forward_pre_hook(given, with_kwargs=True).remove
    return module.register_forward_hook(gives).remove
