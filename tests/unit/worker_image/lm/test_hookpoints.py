"""Finding a module by the names people use."""

import pytest
import torch
from transformers import AutoModel, BertConfig, GPT2Config, LlamaConfig, PreTrainedConfig

from worker_image.errors import UserError
from worker_image.lm.hookpoints import resolve_hookpoint

TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}


def resolve(config: PreTrainedConfig, hookpoint: str) -> str:
    with torch.device("meta"):
        return resolve_hookpoint(AutoModel.from_config(config), hookpoint, config.num_hidden_layers).place


@pytest.mark.parametrize(
    ("config", "hookpoint", "path"),
    [
        (BertConfig(**TINY), "layers.2", "encoder.layer.2"),
        (BertConfig(**TINY), "layers.2.attention", "encoder.layer.2.attention"),
        (BertConfig(**TINY), "encoder.layer.1", "encoder.layer.1"),
        (BertConfig(**TINY), "embeddings", "embeddings"),
        (GPT2Config(n_layer=3, n_embd=16, n_head=2, vocab_size=50), "layers.0", "h.0"),
        (LlamaConfig(**TINY), "layers.1", "layers.1"),
        (LlamaConfig(**TINY), "layers.1.mlp", "layers.1.mlp"),
        (LlamaConfig(**TINY), "layers.1.mlp:in", "layers.1.mlp:in"),
        (LlamaConfig(**TINY), "layers.1.attn:out", "layers.1.self_attn"),
        (BertConfig(**TINY), "layers.1:in", "encoder.layer.1:in"),
        (BertConfig(**TINY), "layers.1.mlp", "encoder.layer.1.output.dense"),
        (BertConfig(**TINY), "layers.1.mlp:in", "encoder.layer.1.intermediate:in"),
        (BertConfig(**TINY), "layers.1.attn", "encoder.layer.1.attention.output.dense"),
        (BertConfig(**TINY), "layers.1.attn:in", "encoder.layer.1.attention.self:in"),
        (GPT2Config(n_layer=3, n_embd=16, n_head=2, vocab_size=50), "layers.1.mlp:in", "h.1.mlp:in"),
    ],
)
def test_a_hookpoint_is_found(config: PreTrainedConfig, hookpoint: str, path: str) -> None:
    assert resolve(config, hookpoint) == path


@pytest.mark.parametrize("hookpoint", ["layers.3", "layers.0.nothing", "nowhere", "layers.3:in"])
def test_an_unknown_hookpoint_is_answered_with_those_there_are(hookpoint: str) -> None:
    with pytest.raises(UserError, match="no module") as caught:
        resolve(BertConfig(**TINY), hookpoint)
    assert caught.value.field == "hookpoint"
    assert caught.value.suggestion is not None
    assert "layers.0, layers.1, layers.2" in caught.value.suggestion


@pytest.mark.parametrize("hookpoint", ["layers.1:", "layers.1:middle"])
def test_an_ending_that_means_nothing_is_refused(hookpoint: str) -> None:
    with pytest.raises(UserError, match="neither ':in' nor ':out'"):
        resolve(BertConfig(**TINY), hookpoint)
