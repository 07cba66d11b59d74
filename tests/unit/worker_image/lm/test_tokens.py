"""Token sequences: cut, wrapped, counted, split between training and held-out, continued from anywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from worker_image.errors import UserError
from worker_image.lm.dataset import Dataset
from worker_image.lm.tokens import START, Bos, Cursor, Position, Sequence, SequenceMaker, TokenStream, set_aside

CLS, SEP, UNK = 2, 3, 1


@pytest.fixture
def maker(bert: Path) -> SequenceMaker:
    return SequenceMaker(AutoTokenizer.from_pretrained(bert), context_length=10, longest=32)


@pytest.fixture
def documents(corpus: Path) -> Dataset:
    return Dataset("corpus", [corpus], "text")


def kept(sequences: list[Sequence]) -> list[int]:
    return [int(token) for sequence in sequences for token in sequence.ids[sequence.kept]]


def one_document(folder: Path, text: str) -> Dataset:
    (folder / "one.jsonl").write_text(json.dumps({"text": text}) + "\n")
    return Dataset("one", [folder / "one.jsonl"], "text")


def test_sequences_are_wrapped_and_special_tokens_are_not_kept(maker: SequenceMaker, tmp_path: Path) -> None:
    document = one_document(tmp_path, "word0 unheard word1")
    [sequence], _ = TokenStream(document, maker, frozenset(), None).take(START, 100, wrap=False)
    assert sequence.ids.tolist() == [CLS, 4, UNK, 5, SEP]
    assert sequence.kept.tolist() == [1, 3]


def test_long_documents_are_cut_to_the_context_length(maker: SequenceMaker, tmp_path: Path) -> None:
    document = one_document(tmp_path, " ".join(f"word{n}" for n in range(20)))
    sequences, _ = TokenStream(document, maker, frozenset(), None).take(START, 100, wrap=False)
    assert [len(sequence.ids) for sequence in sequences] == [10, 10, 6]
    assert kept(sequences) == list(range(4, 24))


def test_a_tokenizer_that_wraps_nothing_is_understood(gpt2: Path, tmp_path: Path) -> None:
    maker = SequenceMaker(AutoTokenizer.from_pretrained(gpt2), context_length=4, longest=32)
    sequences, _ = TokenStream(one_document(tmp_path, "word0 word1"), maker, frozenset(), None).take(
        START, 9, wrap=False
    )
    assert [sequence.ids.tolist() for sequence in sequences] == [[4, 5]]


@pytest.mark.parametrize(("context_length", "said"), [(2, "no room"), (33, "at most 32")])
def test_an_impossible_context_length_is_refused(bert: Path, context_length: int, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        SequenceMaker(AutoTokenizer.from_pretrained(bert), context_length, longest=32)
    assert caught.value.field == "context_length"


@pytest.mark.parametrize("piece", [3, 7, 8, 50])
def test_tokens_taken_in_pieces_are_those_taken_whole(maker: SequenceMaker, documents: Dataset, piece: int) -> None:
    stream = TokenStream(documents, maker, frozenset({3, 5}), None)
    whole, _ = stream.take(START, 150, wrap=False)
    pieces: list[int] = []
    position = START
    while len(pieces) < 150:
        taken, position = stream.take(position, min(piece, 150 - len(pieces)), wrap=False)
        pieces += kept(taken)
        assert position.taken == len(pieces)
    assert pieces == kept(whole)


def test_a_token_keeps_its_context_when_its_document_is_split(maker: SequenceMaker, tmp_path: Path) -> None:
    document = one_document(tmp_path, " ".join(f"word{n}" for n in range(8)))
    stream = TokenStream(document, maker, frozenset(), None)
    first, position = stream.take(START, 3, wrap=False)
    second, _ = stream.take(position, 100, wrap=False)
    assert np.array_equal(first[0].ids, second[0].ids)
    assert kept(first) + kept(second) == list(range(4, 12))


def test_without_wrapping_the_epoch_ends_the_taking(maker: SequenceMaker, documents: Dataset) -> None:
    stream = TokenStream(documents, maker, frozenset(), None)
    sequences, after = stream.take(START, 10**6, wrap=False)
    assert after == Position(epoch=1)
    exactly, after = stream.take(START, len(kept(sequences)), wrap=False)
    assert after == Position(epoch=1)
    assert kept(exactly) == kept(sequences)


def test_wrapping_repeats_the_dataset(maker: SequenceMaker, documents: Dataset) -> None:
    stream = TokenStream(documents, maker, frozenset(), 100)
    once = kept(stream.take(START, 100, wrap=False)[0])
    taken, after = stream.take(START, 250, wrap=True)
    assert kept(taken) == once + once + once[:50]
    assert (after.epoch, after.taken) == (2, 50)


def test_the_limit_is_met_exactly(maker: SequenceMaker, documents: Dataset) -> None:
    sequences, after = TokenStream(documents, maker, frozenset(), 123).take(START, 10**6, wrap=False)
    assert len(kept(sequences)) == 123
    assert after == Position(epoch=1)


def test_held_out_documents_are_never_trained_on(maker: SequenceMaker, documents: Dataset) -> None:
    held_out = set_aside(documents, maker, n_tokens=300, least_training=10, seed=0)
    assert len(kept(held_out.sequences)) == 300
    texts = [document.text for document in documents.read()]
    whole = TokenStream(documents, maker, frozenset(), None).take(START, 10**6, wrap=False)[0]
    training = TokenStream(documents, maker, held_out.documents, None).take(START, 10**6, wrap=False)[0]
    words = sum(len(texts[index].split()) for index in held_out.documents)
    assert len(kept(whole)) - len(kept(training)) == words
    held_out_pieces = {tuple(sequence.ids) for sequence in held_out.sequences if len(sequence.ids) == 10}
    assert held_out_pieces.isdisjoint(tuple(sequence.ids) for sequence in training)


def test_the_seed_decides_what_is_held_out(maker: SequenceMaker, documents: Dataset) -> None:
    draws = [set_aside(documents, maker, 100, 10, seed).documents for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_a_dataset_too_small_for_its_held_out_share_is_refused(maker: SequenceMaker, documents: Dataset) -> None:
    with pytest.raises(UserError, match=r"too few .* 5000") as caught:
        set_aside(documents, maker, n_tokens=5000, least_training=10, seed=0)
    assert caught.value.field == "held_out_tokens"


def test_a_dataset_without_a_single_token_is_refused(maker: SequenceMaker, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no text") as caught:
        set_aside(one_document(tmp_path, "unheard"), maker, n_tokens=1, least_training=1, seed=0)
    assert caught.value.field == "dataset"


def packed(bert: Path, **options: object) -> SequenceMaker:
    tokenizer = AutoTokenizer.from_pretrained(bert)
    return SequenceMaker(tokenizer, context_length=10, longest=32, packing=True, **options)  # type: ignore[arg-type]


def test_packed_documents_fill_every_sequence_with_separators_between_them(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "three.txt").write_text("word0 word1\n\nword2 word3 word4\n\nword5 word6 word7\n")
    stream = TokenStream(Dataset("three", [tmp_path / "three.txt"], "text"), packed(bert), frozenset(), None)
    sequences, _ = stream.take(START, 100, wrap=False)
    assert [sequence.ids.tolist() for sequence in sequences] == [
        [CLS, 4, 5, SEP, 6, 7, 8, SEP, 9, SEP],
        [CLS, 10, 11, SEP, SEP],
    ]
    assert kept(sequences) == list(range(4, 12))


@pytest.mark.parametrize("piece", [1, 3, 7, 8, 50])
def test_packed_tokens_taken_in_pieces_are_those_taken_whole_in_the_same_context(
    bert: Path, documents: Dataset, piece: int
) -> None:
    stream = TokenStream(documents, packed(bert), frozenset({3, 5}), 500)

    def contexts(sequences: list[Sequence]) -> list[tuple[tuple[int, ...], int]]:
        return [(tuple(sequence.ids.tolist()), int(place)) for sequence in sequences for place in sequence.kept]

    whole = contexts(stream.take(START, 1000, wrap=True)[0])
    pieces: list[tuple[tuple[int, ...], int]] = []
    position = START
    while len(pieces) < 1000:
        taken, position = stream.take(position, min(piece, 1000 - len(pieces)), wrap=True)
        pieces += contexts(taken)
        position = Position.from_json(json.loads(json.dumps(position.to_json())))
    assert pieces == whole


def test_a_cursor_goes_on_where_separate_takings_would(maker: SequenceMaker, documents: Dataset) -> None:
    stream = TokenStream(documents, maker, frozenset(), 100)
    cursor, position = Cursor(stream, START), START
    for n_tokens in (5, 30, 64, 1, 100, 7):
        wanted, position = stream.take(position, n_tokens, wrap=True)
        assert kept(cursor.take(n_tokens, wrap=True)) == kept(wanted)
        assert cursor.position == position


def test_held_out_documents_are_packed_too_and_exact(bert: Path, documents: Dataset) -> None:
    held_out = set_aside(documents, packed(bert), n_tokens=300, least_training=10, seed=0)
    assert len(kept(held_out.sequences)) == 300
    assert {len(sequence.ids) for sequence in held_out.sequences[:-1]} == {10}


@pytest.mark.parametrize(("bos", "ids"), [("auto", [CLS, 4, SEP]), ("always", [CLS, 4, SEP]), ("never", [4, SEP])])
def test_the_policy_decides_how_a_sequence_begins(bert: Path, tmp_path: Path, bos: Bos, ids: list[int]) -> None:
    maker = SequenceMaker(AutoTokenizer.from_pretrained(bert), 10, 32, bos=bos)
    [sequence], _ = TokenStream(one_document(tmp_path, "word0"), maker, frozenset(), None).take(START, 9, wrap=False)
    assert sequence.ids.tolist() == ids
    assert kept([sequence]) == [4]


def test_a_first_token_that_the_tokenizer_leaves_out_can_be_asked_for(gpt2: Path, tmp_path: Path) -> None:
    maker = SequenceMaker(AutoTokenizer.from_pretrained(gpt2), 10, 32, bos="always")
    [sequence], _ = TokenStream(one_document(tmp_path, "word0"), maker, frozenset(), None).take(START, 9, wrap=False)
    assert sequence.ids.tolist() == [CLS, 4]


def test_the_first_position_may_be_left_out_of_every_sequence(gpt2: Path, tmp_path: Path) -> None:
    maker = SequenceMaker(AutoTokenizer.from_pretrained(gpt2), 3, 32, drop_first=True)
    document = one_document(tmp_path, " ".join(f"word{n}" for n in range(6)))
    sequences, _ = TokenStream(document, maker, frozenset(), None).take(START, 9, wrap=False)
    assert kept(sequences) == [5, 6, 8, 9]


def test_the_first_position_is_no_token_of_the_text_where_a_special_one_stands_there(
    bert: Path, tmp_path: Path
) -> None:
    maker = SequenceMaker(AutoTokenizer.from_pretrained(bert), 10, 32, drop_first=True)
    sequences, _ = TokenStream(one_document(tmp_path, "word0 word1"), maker, frozenset(), None).take(
        START, 9, wrap=False
    )
    assert kept(sequences) == [4, 5]
