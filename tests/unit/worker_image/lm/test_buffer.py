"""The shuffled buffer: everything once an epoch, the same again from any position, never more than it may hold."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from worker_image.errors import UserError
from worker_image.lm.buffer import DataPosition, ShuffledBuffer
from worker_image.lm.dataset import Dataset
from worker_image.lm.tokens import Sequence, SequenceMaker, TokenStream

BATCH = 8


@pytest.fixture
def stream(bert: Path, corpus: Path) -> TokenStream:
    maker = SequenceMaker(AutoTokenizer.from_pretrained(bert), context_length=10, longest=32)
    return TokenStream(Dataset("corpus", [corpus], "text"), maker, frozenset(), 100)


def buffer(stream: TokenStream, *, capacity: int = 1000, steps: int = 40, **changes: object) -> ShuffledBuffer:
    defaults: dict[str, object] = {"seed": 0, "position": DataPosition()}
    return ShuffledBuffer(
        stream,
        capacity=capacity,
        batch_size=BATCH,
        total_tokens=steps * BATCH,
        **(defaults | changes),  # type: ignore[arg-type]
    )


def token_ids(sequences: list[Sequence]) -> torch.Tensor:
    """Stands in for activations: each token's id, so that tests see where each went."""
    return torch.cat([torch.from_numpy(s.ids[s.kept]).float()[:, None] for s in sequences])


def batches(made: ShuffledBuffer, n: int) -> tuple[list[list[float]], int]:
    """The next n batches and how many tokens were harvested for them."""
    found, harvested = [], 0
    for _ in range(n):
        if not made.ready:
            acts = token_ids(made.plan())
            harvested += len(acts)
            made.add(acts[:5])
            made.add(acts[5:])
        found.append(made.next_batch().squeeze(1).tolist())
    return found, harvested


def test_what_fits_is_harvested_once_and_shuffled_anew_every_epoch(stream: TokenStream) -> None:
    made = buffer(stream)
    found, harvested = batches(made, 36)
    assert harvested == 100
    assert made.repeats
    assert made.complete
    epochs = [found[start : start + 12] for start in range(0, 36, 12)]
    assert epochs[0] != epochs[1] != epochs[2]


def test_an_epoch_serves_no_token_twice(stream: TokenStream) -> None:
    everything = sorted(token_ids(buffer(stream).plan()).squeeze(1).tolist())
    served = sorted(token for batch in batches(buffer(stream), 12)[0] for token in batch)
    for token in set(served):
        assert served.count(token) <= everything.count(token)


def test_what_does_not_fit_comes_in_generations_of_whole_batches(stream: TokenStream) -> None:
    made = buffer(stream, capacity=30, steps=75)
    found, harvested = batches(made, 75)
    assert not made.repeats
    assert harvested == 600
    # 30 holds three whole batches; 25 such generations are 6 epochs of 100 tokens, and none is lost between them.
    everything = sorted(token_ids(buffer(stream).plan()).squeeze(1).tolist() * 6)
    assert sorted(token for batch in found for token in batch) == everything


@pytest.mark.parametrize("capacity", [30, 100, 1000])
@pytest.mark.parametrize("already", [1, 3, 11, 12, 13, 30])
def test_it_continues_from_any_position(stream: TokenStream, capacity: int, already: int) -> None:
    made = buffer(stream, capacity=capacity)
    whole, _ = batches(made, 40)
    first = buffer(stream, capacity=capacity)
    batches(first, already)
    position = DataPosition.from_json(first.position.to_json())
    rest, _ = batches(buffer(stream, capacity=capacity, position=position), 40 - already)
    assert rest == whole[already:]


def test_nothing_is_harvested_in_vain(stream: TokenStream) -> None:
    assert batches(buffer(stream, steps=4), 4)[1] == 32
    made = buffer(stream, capacity=30, steps=4)
    assert batches(made, 4)[1] == 32
    assert made.complete


def test_what_is_left_to_harvest_is_known_after_planning(stream: TokenStream) -> None:
    for capacity, left in ((1000, 100), (30, 320)):
        made = buffer(stream, capacity=capacity)
        made.plan()
        assert made.left_to_harvest == left


def test_the_seed_decides_the_order(stream: TokenStream) -> None:
    orders = [batches(buffer(stream, seed=seed), 5)[0] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_less_than_one_batch_is_refused(bert: Path, corpus: Path) -> None:
    maker = SequenceMaker(AutoTokenizer.from_pretrained(bert), context_length=10, longest=32)
    with pytest.raises(UserError, match="less than one batch"):
        buffer(TokenStream(Dataset("corpus", [corpus], "text"), maker, frozenset(), BATCH - 1)).plan()
