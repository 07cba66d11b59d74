"""Naming a place in a language model.

A hookpoint is the path of a module relative to the model, as ``model.named_modules()`` of transformers' ``AutoModel``
gives it, e.g. ``encoder.layer.3.attention``. Besides, ``layers.N`` means block N of the model's main list of blocks,
whatever the architecture calls it (``encoder.layer.3`` in BERT, ``h.3`` in GPT-2, ``layers.3`` in Llama), and
``layers.N.<rest>`` a module inside it. A path that exists as written wins over this alias.
"""

import re

from torch import nn

from worker_image.errors import UserError


def resolve_hookpoint(model: nn.Module, hookpoint: str, n_blocks: int | None) -> str:
    """The module path that ``hookpoint`` means in ``model``.

    ``n_blocks`` is the number of blocks the model's configuration states, which tells the main list from others.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    paths = {name for name, _ in model.named_modules() if name}
    if hookpoint in paths:
        return hookpoint
    blocks = _main_blocks(model, n_blocks)
    if blocks and (match := re.fullmatch(r"layers\.(\d+)((?:\.\w+)*)", hookpoint)):
        candidate = f"{blocks[0]}.{match[1]}{match[2]}"
        if candidate in paths:
            return candidate
    raise UserError("hookpoint", f"the model has no module {hookpoint!r}", f"choose one of: {_choices(model, blocks)}")


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
    return ", ".join([*whole, *inside])
