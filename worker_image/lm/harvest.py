"""Harvesting: running the language model over token sequences and keeping one module's output, token by token.

Shapes: B sequences, T positions, N kept tokens, D = width of the activations.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from worker_image.errors import OutOfGpuMemory, UserError
from worker_image.lm.tokens import Sequence


class _Reached(Exception):
    """The hookpoint has its output; later layers would be wasted."""


class Harvester:
    """Gives the activations of one module of a language model."""

    def __init__(
        self, model: nn.Module, module_path: str, *, pad_id: int, batch_tokens: int, device: torch.device
    ) -> None:
        self._model = model
        self._module = model.get_submodule(module_path)
        self._module_path = module_path
        self._pad_id = pad_id
        self._batch_tokens = batch_tokens
        self._device = device

    def width(self, sequence: Sequence) -> int:
        """D, found by reading one sequence."""
        return self._activations([sequence]).shape[1]

    def harvest(self, sequences: list[Sequence]) -> Iterator[Tensor]:
        """The kept tokens' activations, (N, D) a forward pass, shortest sequences first.

        Sequences of like length go together, so next to nothing is padded; within one length the order is kept, so
        the same sequences always give the same rows in the same order.
        """
        for batch in self._batches(sorted(sequences, key=lambda sequence: len(sequence.ids))):
            yield self._activations(batch)

    def _batches(self, ordered: list[Sequence]) -> Iterator[list[Sequence]]:
        batch: list[Sequence] = []
        for sequence in ordered:
            if batch and (len(batch) + 1) * len(sequence.ids) > self._batch_tokens:
                yield batch
                batch = []
            batch.append(sequence)
        if batch:
            yield batch

    def _activations(self, batch: list[Sequence]) -> Tensor:
        longest = max(len(sequence.ids) for sequence in batch)
        ids_BT = np.full((len(batch), longest), self._pad_id, dtype=np.int64)
        mask_BT = np.zeros((len(batch), longest), dtype=np.int64)
        for row, sequence in enumerate(batch):
            ids_BT[row, : len(sequence.ids)] = sequence.ids
            mask_BT[row, : len(sequence.ids)] = 1
        kept_N = np.concatenate([row * longest + sequence.kept for row, sequence in enumerate(batch)])
        output_BTD = self._output(torch.from_numpy(ids_BT), torch.from_numpy(mask_BT))
        if output_BTD.shape[:2] != ids_BT.shape:
            raise UserError(
                "hookpoint",
                f"{self._module_path} gives shape {tuple(output_BTD.shape)}, not one vector per token",
                "choose a module whose output is (batch, tokens, width), such as a whole block",
            )
        acts_ND = output_BTD.flatten(0, 1)[torch.from_numpy(kept_N).to(output_BTD.device)]
        if not torch.isfinite(acts_ND).all():
            raise UserError(
                "model_dtype",
                f"activations at {self._module_path} overflow in {str(acts_ND.dtype).removeprefix('torch.')}",
                "use bfloat16 or float32",
            )
        return acts_ND

    def _output(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Run the model as far as the hookpoint. The hook is gone afterwards, whatever happens."""
        caught: list[object] = []

        def catch(_module: nn.Module, _inputs: object, output: object) -> None:
            caught.append(output)
            raise _Reached

        handle = self._module.register_forward_hook(catch)
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
        finally:
            handle.remove()
        if not caught:
            raise UserError(
                "hookpoint",
                f"{self._module_path} is not run in a forward pass",
                "choose a module that is, such as a block",
            )
        output = caught[0]
        # Blocks of many architectures return a tuple: hidden states first, then caches or attention weights.
        first = output[0] if isinstance(output, (tuple, list)) else output
        if not isinstance(first, Tensor) or first.dim() != 3:
            raise UserError(
                "hookpoint",
                f"{self._module_path} does not give one vector per token",
                "choose a module whose output is (batch, tokens, width), such as a whole block",
            )
        return first
