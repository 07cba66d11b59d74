"""Harvesting: running the language model over token sequences and keeping activations of some hookpoints, by token.

Shapes: B sequences, T positions, N kept tokens, D = width of all hookpoints' activations together.
"""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from contextlib import ExitStack
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from worker_image.errors import OutOfGpuMemory, UserError
from worker_image.lm.hookpoints import Hookpoint
from worker_image.lm.tokens import Sequence

Columns = dict[str, slice]
"""Hookpoint, as the user wrote it -> its columns of D."""


class _Reached(Exception):
    """Every hookpoint has its activations; later layers would be wasted."""


class Harvester:
    """Gives the activations of some hookpoints of a language model, side by side."""

    def __init__(
        self,
        model: nn.Module,
        hookpoints: Several[Hookpoint],
        *,
        pad_id: int,
        batch_tokens: int,
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> None:
        """``batch_tokens``: at most so many a forward pass. ``dtype``: what to give; the model's own when None."""
        self._model = model
        self._pad_id = pad_id
        self.hookpoints = tuple(hookpoints)
        self.batch_tokens = batch_tokens
        self._device = device
        self._dtype = dtype

    def only(self, hookpoints: Several[Hookpoint]) -> "Harvester":
        """The same for other hookpoints of the model."""
        return Harvester(
            self._model,
            hookpoints,
            pad_id=self._pad_id,
            batch_tokens=self.batch_tokens,
            device=self._device,
            dtype=self._dtype,
        )

    def widths(self, sequence: Sequence) -> list[int]:
        """Of each hookpoint, found by reading one sequence."""
        return [acts_ND.shape[1] for acts_ND in self._activations([sequence])]

    def columns(self, sequence: Sequence) -> Columns:
        """Which columns belong to which hookpoint, found by reading one sequence."""
        return side_by_side(self.hookpoints, self.widths(sequence))

    def harvest(self, sequences: Several[Sequence], *, after: int = 0) -> Iterator[Tensor]:
        """The kept tokens' activations, (N, D) a forward pass, shortest sequences first.

        Sequences of like length go together, so next to nothing is padded; within one length the order is kept, so
        the same sequences always give the same rows in the same order. The first ``after`` passes are left out.
        """
        for _, parts in self.passes(sequences, after=after):
            yield torch.cat(parts, dim=1)

    def passes(
        self, sequences: Several[Sequence], wanted: frozenset[int] | None = None, *, after: int = 0
    ) -> Iterator[tuple[list[int], list[Tensor]]]:
        """As ``harvest``, with the indices of the sequences whose rows these are in the order of the rows, and the
        activations of each hookpoint for themselves. Only passes that hold a ``wanted`` sequence are run; who shares
        a pass with whom does not depend on it. The first ``after`` passes are left out."""
        for indices in islice(self._batches(sequences), after, None):
            if wanted is not None and wanted.isdisjoint(indices):
                continue
            yield indices, self._activations([sequences[index] for index in indices])

    def count_passes(self, sequences: Several[Sequence]) -> int:
        """How many there are over these sequences."""
        return sum(1 for _ in self._batches(sequences))

    def _batches(self, sequences: Several[Sequence]) -> Iterator[list[int]]:
        order = sorted(range(len(sequences)), key=lambda index: len(sequences[index].ids))
        batch: list[int] = []
        for index in order:
            if batch and (len(batch) + 1) * len(sequences[index].ids) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _activations(self, batch: list[Sequence]) -> list[Tensor]:
        """(N, width) for each hookpoint."""
        longest = max(len(sequence.ids) for sequence in batch)
        ids_BT = np.full((len(batch), longest), self._pad_id, dtype=np.int64)
        mask_BT = np.zeros((len(batch), longest), dtype=np.int64)
        for row, sequence in enumerate(batch):
            ids_BT[row, : len(sequence.ids)] = sequence.ids
            mask_BT[row, : len(sequence.ids)] = 1
        kept_N = np.concatenate([row * longest + sequence.kept for row, sequence in enumerate(batch)])
        return self._run(torch.from_numpy(ids_BT), torch.from_numpy(mask_BT), torch.from_numpy(kept_N))

    def _run(self, ids_BT: Tensor, mask_BT: Tensor, kept_N: Tensor) -> list[Tensor]:
        """(N, width) for each hookpoint; the model runs as far as the last. No hook is left, whatever happens."""
        caught: dict[int, Tensor] = {}

        def keep(index: int, value: object) -> None:
            # Copied out at once: a later module may write into what an earlier one gave.
            caught.setdefault(index, _kept(self.hookpoints[index], value, ids_BT.shape, kept_N))
            if len(caught) == len(self.hookpoints):
                raise _Reached

        with ExitStack() as hooks:
            for index, hookpoint in enumerate(self.hookpoints):
                hooks.callback(_hook(self._model, hookpoint, partial(keep, index)))
            try:
                with torch.no_grad():
                    self._model(input_ids=ids_BT.to(self._device), attention_mask=mask_BT.to(self._device))
            except _Reached:
                pass
            except torch.cuda.OutOfMemoryError as error:
                raise OutOfGpuMemory(
                    "harvest_batch_size",
                    f"the language model does not fit {ids_BT.numel()} tokens a pass into GPU memory",
                    "lower harvest_batch_size or context_length, or set model_dtype to bfloat16",
                ) from error
        return [self._finished(index, caught.get(index)) for index in range(len(self.hookpoints))]

    def _finished(self, index: int, acts_ND: Tensor | None) -> Tensor:
        place = self.hookpoints[index].place
        if acts_ND is None:
            raise UserError(
                "hookpoint",
                f"{place} is not run in a forward pass",
                "choose a module that is, such as a block",
            )
        kept_ND = acts_ND.to(self._dtype) if self._dtype else acts_ND
        if not torch.isfinite(kept_ND).all():
            raise _overflow(place, acts_ND, kept_ND.dtype)
        return kept_ND


def side_by_side(hookpoints: Several[Hookpoint], widths: Several[int]) -> Columns:
    """The columns of each, in this order."""
    ends = np.cumsum(widths).tolist()
    return {
        hookpoint.name: slice(end - width, end) for hookpoint, width, end in zip(hookpoints, widths, ends, strict=True)
    }


def _overflow(place: str, acts_ND: Tensor, kept_in: torch.dtype) -> UserError:
    """Of what the model gave, ``acts_ND``, or of what is kept of it."""
    given_in = acts_ND.dtype
    if torch.isfinite(acts_ND).all():
        largest = acts_ND.abs().max().item()
        wide = "float32" if kept_in == torch.bfloat16 else "bfloat16 or float32"
        return UserError(
            "activation_dtype",
            f"activations at {place} overflow in {_name(kept_in)}, in which they are kept: they reach {largest:.3g}",
            f"set activation_dtype to {wide}",
        )
    if given_in == torch.float32:
        return UserError(
            "model",
            f"activations at {place} overflow in float32, or are no numbers",
            "check the model's weights, or choose another hookpoint",
        )
    return UserError(
        "model_dtype",
        f"activations at {place} overflow in {_name(given_in)}, in which the model computes",
        f"set model_dtype to {'float32' if given_in == torch.bfloat16 else 'bfloat16 or float32'}",
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kept(hookpoint: Hookpoint, value: object, shape: tuple[int, ...], kept_N: Tensor) -> Tensor:
    """The rows of the kept tokens: (N, width)."""
    if not isinstance(value, Tensor) or value.dim() != 3 or value.shape[:2] != shape:
        got = f": its shape is {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise UserError(
            "hookpoint",
            f"{hookpoint.place} does not give one vector per token{got}",
            "choose a module whose activations are (batch, tokens, width), such as a whole block",
        )
    return value.flatten(0, 1)[kept_N.to(value.device)]


def _hook(model: nn.Module, hookpoint: Hookpoint, keep: Callable[[object], None]) -> Callable[[], None]:
    """Have ``keep`` called with what is seen at ``hookpoint``; returns what takes the hook away again."""
    module = model.get_submodule(hookpoint.path)

    def given(_module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        keep(args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None)))

    def gives(_module: nn.Module, _args: object, output: object) -> None:
        # Blocks of many architectures return a tuple: hidden states first, then caches or attention weights.
        keep(output[0] if isinstance(output, (tuple, list)) and output else output)

    if hookpoint.side == "in":
        return module.register_forward_pre_hook(given, with_kwargs=True).remove
    return module.register_forward_hook(gives).remove
