"""Harvested activations are the model's own, and the model is left as it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel

from worker_image.errors import UserError
from worker_image.lm.harvest import Harvester
from worker_image.lm.hookpoints import resolve_hookpoint
from worker_image.lm.model import find_model, load_model
from worker_image.lm.tokens import Sequence

CPU = torch.device("cpu")
SEQUENCES = [
    Sequence(np.array([2, 10, 11, 12, 13, 3], dtype=np.int32), np.array([1, 2, 3, 4], dtype=np.int32)),
    Sequence(np.array([2, 20, 3], dtype=np.int32), np.array([1], dtype=np.int32)),
    Sequence(np.array([2, 30, 31, 3], dtype=np.int32), np.array([2], dtype=np.int32)),
]
BY_LENGTH = [SEQUENCES[1], SEQUENCES[2], SEQUENCES[0]]


def harvester(model: nn.Module, *places: str, batch_tokens: int = 1000, dtype: torch.dtype | None = None) -> Harvester:
    hookpoints = [resolve_hookpoint(model, place, None) for place in places]
    return Harvester(model, hookpoints, pad_id=0, batch_tokens=batch_tokens, device=CPU, dtype=dtype)


def hooks_on(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


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
    found = torch.cat(list(harvester(model, "encoder.layer.1", batch_tokens=batch_tokens).harvest(SEQUENCES)))
    torch.testing.assert_close(found, torch.cat(wanted), atol=1e-5, rtol=1e-4)


def test_a_causal_model_gives_one_vector_per_kept_token(gpt2: Path) -> None:
    source = find_model(str(gpt2), ["layers.1"], network=False)
    made = harvester(load_model(source, torch.float32, CPU), source.hookpoints[0].place)
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
    list(harvester(model, "encoder.layer.1", "layers.0:in").harvest(SEQUENCES))
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


def overflowing(bert: Path, by: float, dtype: torch.dtype) -> nn.Module:
    model = AutoModel.from_pretrained(bert).eval()
    with torch.no_grad():
        model.encoder.layer[1].output.LayerNorm.bias += by
    return model.to(dtype)


@pytest.mark.parametrize(
    ("model_dtype", "by", "field", "suggestion"),
    [
        (torch.float32, torch.inf, "model", "check the model's weights, or choose another hookpoint"),
        (torch.float32, torch.nan, "model", "check the model's weights, or choose another hookpoint"),
        (torch.bfloat16, torch.inf, "model_dtype", "set model_dtype to float32"),
        (torch.float16, 1e6, "model_dtype", "set model_dtype to bfloat16 or float32"),
    ],
)
def test_a_model_that_overflows_is_told_apart_from_what_its_activations_are_kept_in(
    bert: Path, model_dtype: torch.dtype, by: float, field: str, suggestion: str
) -> None:
    with pytest.raises(UserError, match=r"at encoder\.layer\.1 overflow") as caught:
        list(harvester(overflowing(bert, by, model_dtype), "layers.1", dtype=torch.float16).harvest(SEQUENCES))
    assert (caught.value.field, caught.value.suggestion) == (field, suggestion)


@pytest.mark.parametrize(
    ("kept_in", "by", "suggestion"),
    [
        (torch.float16, 1e6, "set activation_dtype to bfloat16 or float32"),
        (torch.bfloat16, 3.4e38, "set activation_dtype to float32"),
    ],
)
def test_activations_that_overflow_only_in_what_they_are_kept_in_name_it_and_what_would_hold_them(
    bert: Path, kept_in: torch.dtype, by: float, suggestion: str
) -> None:
    with pytest.raises(UserError, match="in which they are kept: they reach") as caught:
        list(harvester(overflowing(bert, by, torch.float32), "layers.1", dtype=kept_in).harvest(SEQUENCES))
    assert (caught.value.field, caught.value.suggestion) == ("activation_dtype", suggestion)


def test_several_hookpoints_stand_side_by_side_in_the_order_asked_for(bert: Path) -> None:
    model = AutoModel.from_pretrained(bert).eval()
    places = ["layers.1", "layers.0.mlp:in", "layers.0"]
    together = harvester(model, *places)
    columns = together.columns(SEQUENCES[0])
    assert columns == {"layers.1": slice(0, 16), "layers.0.mlp:in": slice(16, 32), "layers.0": slice(32, 48)}
    acts_ND = torch.cat(list(together.harvest(SEQUENCES)))
    for place in places:
        alone_ND = torch.cat(list(harvester(model, place).harvest(SEQUENCES)))
        assert torch.equal(acts_ND[:, columns[place]], alone_ND)


def test_the_input_of_a_block_is_the_output_of_the_block_before(bert: Path) -> None:
    model = AutoModel.from_pretrained(bert).eval()
    acts_ND = torch.cat(list(harvester(model, "layers.0", "layers.1:in").harvest(SEQUENCES)))
    assert torch.equal(acts_ND[:, :16], acts_ND[:, 16:])


def test_what_the_mlp_reads_and_adds_are_the_two_ends_of_it(gpt2: Path) -> None:
    model = AutoModel.from_pretrained(gpt2).eval()
    made = harvester(model, "layers.1.mlp:in", "layers.1.mlp")
    acts_ND = torch.cat(list(made.harvest(SEQUENCES)))
    with torch.no_grad():
        torch.testing.assert_close(model.h[1].mlp(acts_ND[:, :12]), acts_ND[:, 12:])


def test_a_module_that_writes_into_what_an_earlier_one_gave_changes_no_activations(bert: Path) -> None:
    model = AutoModel.from_pretrained(bert).eval()
    untouched = torch.cat(list(harvester(model, "layers.0").harvest(SEQUENCES)))

    def overwrite(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        args[0].zero_()

    model.encoder.layer[1].register_forward_pre_hook(overwrite)
    found = torch.cat(list(harvester(model, "layers.0", "layers.2").harvest(SEQUENCES)))
    assert torch.equal(found[:, :16], untouched)


def test_the_rows_of_a_pass_are_told_by_sequence(bert: Path) -> None:
    model = AutoModel.from_pretrained(bert).eval()
    made = harvester(model, "layers.1", batch_tokens=8)
    assert [indices for indices, _ in made.passes(SEQUENCES)] == [[1, 2], [0]]


def test_activations_are_given_in_the_precision_asked_for(bert: Path) -> None:
    model = AutoModel.from_pretrained(bert).eval()
    hookpoint = resolve_hookpoint(model, "layers.1", None)
    made = Harvester(model, [hookpoint], pad_id=0, batch_tokens=100, device=CPU, dtype=torch.bfloat16)
    assert torch.cat(list(made.harvest(SEQUENCES))).dtype == torch.bfloat16
