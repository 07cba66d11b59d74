"""What a language model's configuration tells of its size, without reading a weight."""

from collections.abc import Mapping
from dataclasses import dataclass

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_WIDTH = ("hidden_size", "n_embd", "d_model")
_INNER = ("intermediate_size", "ffn_dim", "n_inner", "d_ff")
_HEADS = ("num_attention_heads", "n_head", "num_heads")
_GATED = ("silu", "swish", "gelu_pytorch_tanh", "swiglu", "geglu")
"""Activations that decoders use in gated MLPs, which have three matrices instead of two."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The figures that memory and time depend on; empty where the configuration does not tell."""

    layers: int | None
    d_model: int | None
    d_inner: int | None = None
    """Width inside the MLP."""
    vocabulary: int | None = None
    parameters: int | None = None
    """Of the whole model: counted where it could be, else estimated from the other figures."""

    @classmethod
    def of(cls, config: Mapping[str, object], parameters: int | None = None) -> "ModelShape":
        """Read off a ``config.json``; ``parameters`` where they were counted in the weights."""
        nested = config.get("text_config")
        if isinstance(nested, Mapping):
            config = {**config, **nested}
        layers, d_model = _first(config, _LAYERS), _first(config, _WIDTH)
        d_inner = _first(config, _INNER) or (4 * d_model if d_model else None)
        vocabulary = _first(config, ("vocab_size",))
        if parameters is None and layers and d_model and d_inner:
            parameters = layers * _block(config, d_model, d_inner) + (vocabulary or 0) * d_model
        return cls(layers, d_model, d_inner, vocabulary, parameters)

    @property
    def block_parameters(self) -> float | None:
        """Of one block; none when the shape does not tell."""
        if not (self.parameters and self.layers and self.d_model):
            return None
        return max(0, self.parameters - (self.vocabulary or 0) * self.d_model) / self.layers


def _block(config: Mapping[str, object], d_model: int, d_inner: int) -> int:
    heads = _first(config, _HEADS) or 1
    head_width = _first(config, ("head_dim",)) or d_model // heads
    shared = _first(config, ("num_key_value_heads",)) or heads
    attention = 2 * d_model * head_width * (heads + shared)
    activation = config.get("hidden_act") or config.get("hidden_activation") or config.get("activation_function")
    gated = activation in _GATED
    return attention + (3 if gated else 2) * d_model * d_inner


def _first(config: Mapping[str, object], names: tuple[str, ...]) -> int | None:
    return next((value for name in names if isinstance(value := config.get(name), int) and value > 0), None)
