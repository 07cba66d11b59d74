"""A language model's size, from its configuration alone."""

import pytest
from transformers import (
    AutoModel,
    BertConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from worker_image.contract.model_shape import ModelShape

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 50}
CONFIGS = [
    BertConfig(**SMALL, max_position_embeddings=8),
    GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=50, n_positions=8),
    GPTNeoXConfig(**SMALL),
    LlamaConfig(**SMALL, num_key_value_heads=2),
    GemmaConfig(**SMALL, num_key_value_heads=1, head_dim=16),
    Qwen2Config(**SMALL, num_key_value_heads=4),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_the_parameters_of_common_architectures_are_told_within_a_tenth(config: PreTrainedConfig) -> None:
    actual = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
    shape = ModelShape.of(config.to_dict())
    assert shape.parameters == pytest.approx(actual, rel=0.1)
    assert (shape.layers, shape.d_model, shape.vocabulary) == (3, 32, 50)


def test_parameters_that_were_counted_hold() -> None:
    assert ModelShape.of(CONFIGS[0].to_dict(), parameters=7).parameters == 7


def test_the_language_model_inside_another_is_meant() -> None:
    shape = ModelShape.of({"hidden_size": 5, "text_config": {"hidden_size": 32, "num_hidden_layers": 3}})
    assert (shape.d_model, shape.layers) == (32, 3)


def test_a_configuration_that_tells_nothing_leaves_everything_open() -> None:
    assert ModelShape.of({"hidden_size": "wide"}) == ModelShape(None, None)


def test_a_block_has_its_share_of_what_is_not_vocabulary() -> None:
    assert ModelShape(layers=2, d_model=4, vocabulary=10, parameters=100).block_parameters == 30
    assert ModelShape(layers=None, d_model=4).block_parameters is None
