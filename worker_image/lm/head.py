"""A language model with what makes predictions of its last activations, where there is such a head."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from worker_image.lm.model import ModelSource, load_as

_CAUSAL = ("ForCausalLM", "LMHeadModel")
_MASKED = ("ForMaskedLM", "ForPreTraining")


class NoHead(Exception):
    """The model makes no predictions that could be compared; the message says why."""


@dataclass(frozen=True)
class Headed:
    """A model that predicts tokens, and the part of it that hookpoints are in."""

    model: PreTrainedModel
    kind: Literal["causal", "masked"]

    @property
    def body(self) -> nn.Module:
        """What ``AutoModel`` would have loaded."""
        body: nn.Module = self.model.base_model
        return body

    @property
    def vocabulary(self) -> int:
        """Tokens it tells apart."""
        return int(self.unembedding_VD.shape[0])

    @property
    def unembedding_VD(self) -> Tensor:
        """The last matrix: what each direction says for each token."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight


def kind_of(source: ModelSource) -> Literal["causal", "masked"]:
    """What the model predicts, by its configuration.

    Raises:
        NoHead: nothing, or it does not tell.
    """
    named = (getattr(source.config, "architectures", None) or ["a model of unknown kind"])[0]
    if named.endswith(_CAUSAL):
        return "causal"
    if named.endswith(_MASKED):
        return "masked"
    raise NoHead(f"{source.reference} is {named}, which has no head that predicts tokens")


def load_headed(source: ModelSource, dtype: torch.dtype, device: torch.device) -> Headed:
    """The model with its weights, those of the head too.

    Raises:
        NoHead: it has none, or its weights are missing.
        UserError: the weights of the rest are missing or damaged.
    """
    kind = kind_of(source)
    if kind == "masked" and source.tokenizer.mask_token_id is None:
        raise NoHead(f"the tokenizer of {source.reference} has no token that stands for a masked one")
    made, missing = load_as(AutoModelForCausalLM if kind == "causal" else AutoModelForMaskedLM, source, dtype, device)
    if missing:
        raise NoHead(f"the weights of {source.reference} lack those of its head: {', '.join(sorted(missing)[:3])}")
    if made.get_output_embeddings() is None:
        raise NoHead(f"the head of {source.reference} is of a kind that is not known here")
    return Headed(made, kind)
