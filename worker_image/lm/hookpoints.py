"""Naming places in a language model.

A hookpoint is the path of a module relative to the model, as ``model.named_modules()`` of transformers' ``AutoModel``
gives it, e.g. ``encoder.layer.3.attention``; its activations are what the module gives out. ``:in`` behind it means
what the module is given instead.

=========================  ===========================================================================================
``layers.N``               residual stream after block N, whatever the architecture calls its list of blocks
                           (``encoder.layer.3`` in BERT, ``h.3`` in GPT-2, ``layers.3`` in Llama)
``layers.N:in``            residual stream before block N
``layers.N.attn``          what attention adds to the residual stream
``layers.N.mlp``           what the MLP adds to it
``layers.N.mlp:in``        what the MLP reads: with ``layers.N.mlp`` the two ends of a transcoder
``layers.N.<rest>[:in]``   any module inside block N
``<path>[:in]``            any module
=========================  ===========================================================================================

A path that exists as written wins over these short forms.
"""

import re
from dataclasses import dataclass
from typing import Literal

from torch import nn

from worker_image.errors import UserError

Side = Literal["in", "out"]

_ATTENTION = ("self_attn", "attn", "self_attention", "attention")
_MLP = ("mlp", "feed_forward", "ffn", "ff")


@dataclass(frozen=True)
class Hookpoint:
    """A place in one model."""

    name: str
    """As the user wrote it."""
    path: str
    """Module path."""
    side: Side = "out"
    """Whether what the module is given is meant, or what it gives."""

    @property
    def place(self) -> str:
        """The same for every way of writing it."""
        return f"{self.path}:in" if self.side == "in" else self.path


def resolve_hookpoint(model: nn.Module, hookpoint: str, n_blocks: int | None) -> Hookpoint:
    """The place that ``hookpoint`` means in ``model``.

    ``n_blocks`` is the number of blocks the model's configuration states, which tells the main list from others.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    written, _, ending = hookpoint.partition(":")
    if ending not in ("", "in", "out") or (":" in hookpoint and not ending):
        raise UserError("hookpoint", f"{hookpoint!r} ends in neither ':in' nor ':out'", f"write {written}:in")
    side: Side = "in" if ending == "in" else "out"
    paths = {name for name, _ in model.named_modules() if name}
    if written in paths:
        return Hookpoint(hookpoint, written, side)
    blocks = _main_blocks(model, n_blocks)
    if blocks and (match := re.fullmatch(r"layers\.(\d+)((?:\.\w+)*)", written)):
        block, rest = f"{blocks[0]}.{match[1]}", match[2].removeprefix(".")
        candidates = [f"{block}.{rest}" if rest else block, *(f"{block}.{path}" for path in _role(rest, side))]
        if found := next((path for path in candidates if path in paths), None):
            return Hookpoint(hookpoint, found, side)
    raise UserError("hookpoint", f"the model has no module {written!r}", f"choose one of: {_choices(model, blocks)}")


def _role(rest: str, side: Side) -> tuple[str, ...]:
    """What architectures call the part of a block that ``rest`` names by what it does, likeliest first.

    BERT's family wraps dense layers, dropout, the sum with the residual stream and a normalisation in one module, and
    has none for the whole MLP: what is added is the output of the dense layer.
    """
    match rest:
        case "attn":
            return (*(("attention.self",) if side == "in" else ("attention.output.dense",)), *_ATTENTION)
        case "mlp":
            return (*_MLP, "intermediate" if side == "in" else "output.dense")
        case _:
            return ()


def _main_blocks(model: nn.Module, n_blocks: int | None) -> tuple[str, int] | None:
    """Path and length of the main list of blocks: the outermost with the stated length, else the longest one."""
    lists = [(name, len(module)) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    stated = [found for found in lists if found[1] == n_blocks]
    if stated:
        return min(stated, key=lambda found: found[0].count("."))
    return max(lists, key=lambda found: found[1], default=None)


def _choices(model: nn.Module, blocks: tuple[str, int] | None) -> str:
    if blocks is None:
        return ", ".join(name for name, _ in list(model.named_modules())[1:21])
    path, length = blocks
    inside = [f"layers.<n>.{name}" for name, _ in model.get_submodule(f"{path}.0").named_children()]
    whole = [f"layers.{index}" for index in range(length)] if length <= 12 else [f"layers.0 ... layers.{length - 1}"]
    return ", ".join([*whole, "layers.<n>.attn", "layers.<n>.mlp", *inside]) + "; ':in' behind one means its input"
