"""A language model small enough to build in a test, and text it can read."""

import json
import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

# Tensors here are tiny: a second thread only waits for the first, for very long on a busy machine.
torch.set_num_threads(1)

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [f"word{number}" for number in range(60)]


def save_tokenizer(folder: Path, *, wrapped: bool) -> None:
    """A word-level tokenizer; ``wrapped`` puts [CLS] and [SEP] around every text, as BERT's does."""
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if wrapped:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of three blocks, 16 wide, reading at most 32 tokens."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIALS) + len(WORDS),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    save_tokenizer(folder, wrapped=True)
    return folder


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random causal model of two blocks, 12 wide, whose blocks return tuples or tensors as transformers likes."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(SPECIALS) + len(WORDS),
        n_embd=12,
        n_layer=2,
        n_head=2,
        n_positions=32,
        bos_token_id=2,
        eos_token_id=3,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    save_tokenizer(folder, wrapped=False)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 documents of 3 to 40 words."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    texts = (" ".join(draw.choices(WORDS, k=draw.randint(3, 40))) for _ in range(120))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path
