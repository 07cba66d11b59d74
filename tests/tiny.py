"""A language model and a text small enough to train on in a test."""

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

MODEL = "tiny"
DATASET = "words.jsonl"
HOOKPOINT = "layers.0"
WORDS = [f"word{number}" for number in range(200)]


def put_inputs(home: Path) -> None:
    """A random two-layer BERT of 32 dimensions, and 24,000 of its few words, under ``home``."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = home / "models" / MODEL
    folder.mkdir(parents=True)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), **shape)).save_pretrained(folder)
    # Weights are saved for their owner alone, and containers run as another user.
    for file in folder.iterdir():
        file.chmod(0o644)
    dice = random.Random(0)
    lines = (json.dumps({"text": " ".join(dice.choices(WORDS, k=60))}) for _ in range(400))
    (home / "datasets").mkdir()
    (home / "datasets" / DATASET).write_text("\n".join(lines))
