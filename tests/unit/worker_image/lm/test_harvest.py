"""Harvested activations are the model's own, and the model is left as it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel

from worker_image.errors import UserError
from worker_image.lm.harvest import Harvester
from worker_image.lm.model import find_model, load_model
from worker_image.lm.tokens import Sequence

CPU = torch.device("cpu")
SEQUENCES = [
    Sequence(np.array([2, 10, 11, 12, 13, 3], dtype=np.int32), np.array([1, 2, 3, 4], dtype=np.int32)),
    Sequence(np.array([2, 20, 3], dtype=np.int32), np.array([1], dtype=np.int32)),
    Sequence(np.array([2, 30, 31, 3], dtype=np.int32), np.array([2], dtype=np.int32)),
]
BY_LENGTH = [SEQUENCES[1], SEQUENCES[2], SEQUENCES[0]]


def harvester(model: nn.Module, path: str, batch_tokens: int = 1000) -> Harvester:
    return Harvester(model, path, pad_id=0, batch_tokens=batch_tokens, device=CPU)


def hooks_on(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("batch_tokens", [1, 8, 1000])
def test_activations_are_those_of_each_sequence_alone(bert: Path, batch_tokens: int) -> None:
    model = AutoModel.from_pretrained(bert).eval()
    with torch.no_grad():
        wanted = [
            model(input_ids=torch.tensor(s.ids[None].astype(int)), output_hidden_states=True).hidden_states[2][
                0, s.kept
            ]
            for s in BY_LENGTH
        ]
    found = torch.cat(list(harvester(model, "encoder.layer.1", batch_tokens).harvest(SEQUENCES)))
    torch.testing.assert_close(found, torch.cat(wanted), atol=1e-5, rtol=1e-4)


def test_a_causal_model_gives_one_vector_per_kept_token(gpt2: Path) -> None:
    source = find_model(str(gpt2), "layers.1", network=False)
    made = harvester(load_model(source, torch.float32, CPU), source.module_path)
    assert torch.cat(list(made.harvest(SEQUENCES))).shape == (6, 12)


def test_the_model_runs_no_further_than_the_hookpoint(bert: Path) -> None:
    model = AutoModel.from_pretrained(bert).eval()
    ran: list[str] = []
    for index, block in enumerate(model.encoder.layer):
        block.register_forward_hook(lambda *_, index=index: ran.append(str(index)))
    list(harvester(model, "encoder.layer.1").harvest(SEQUENCES))
    assert ran == ["0", "1"]


def test_no_hook_is_left_behind(bert: Path) -> None:
    model = AutoModel.from_pretrained(bert).eval()
    list(harvester(model, "encoder.layer.1").harvest(SEQUENCES))
    assert hooks_on(model) == 0


def test_no_hook_is_left_behind_by_a_failure(bert: Path) -> None:
    model = AutoModel.from_pretrained(bert).eval()
    model.encoder.layer[0].forward = lambda *args, **kwargs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(harvester(model, "encoder.layer.1").harvest(SEQUENCES))
    assert hooks_on(model) == 0


@pytest.mark.parametrize("path", ["pooler", "embeddings.position_embeddings"])
def test_a_module_without_one_vector_per_token_is_refused(bert: Path, path: str) -> None:
    with pytest.raises(UserError, match="one vector per token") as caught:
        list(harvester(AutoModel.from_pretrained(bert).eval(), path).harvest(SEQUENCES))
    assert caught.value.field == "hookpoint"


def test_overflowing_activations_are_refused(bert: Path) -> None:
    model = AutoModel.from_pretrained(bert).eval()
    with torch.no_grad():
        model.encoder.layer[1].output.LayerNorm.bias += torch.inf
    with pytest.raises(UserError, match="overflow") as caught:
        list(harvester(model, "encoder.layer.1").harvest(SEQUENCES))
    assert caught.value.field == "model_dtype"
