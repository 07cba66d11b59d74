"""Token sequences of a dataset: what the language model reads, and which of its positions are learned from."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from transformers import PreTrainedTokenizerBase

from worker_image.errors import UserError
from worker_image.lm.documents import FIRST, Document, DocumentFile, Mark

_DOCUMENTS_PER_CALL = 256
"""Documents tokenised together; the tokenizer spreads them over threads."""

Ids = np.ndarray[tuple[int], np.dtype[np.int32]]


@dataclass(frozen=True)
class Sequence:
    """A piece of one document, wrapped in the special tokens the model expects."""

    ids: Ids
    """With special tokens, without padding."""
    kept: Ids
    """Positions in ``ids`` to learn from, ascending."""


@dataclass(frozen=True)
class Position:
    """A place in the endless stream of training tokens, which repeats the dataset epoch after epoch."""

    epoch: int = 0
    mark: Mark = FIRST
    """Document the next token is in."""
    token: int = 0
    """Tokens of that document already passed."""
    taken: int = 0
    """Kept tokens already passed in this epoch."""


START = Position()
"""The first token of the dataset."""


class SequenceMaker:
    """Cuts documents into sequences of at most ``context_length`` tokens.

    Raises:
        UserError: ``context_length`` leaves no room for text, or is more than the model can read.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context_length: int, longest: int | None) -> None:
        self._tokenizer = tokenizer
        self._special = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int32)
        self._prefix, self._suffix = _wrapping(tokenizer)
        self._content = context_length - len(self._prefix) - len(self._suffix)
        if longest is not None and context_length > longest:
            raise UserError(
                "context_length",
                f"the model reads at most {longest} tokens at once, not {context_length}",
                f"lower it to {longest}",
            )
        if self._content < 1:
            raise UserError(
                "context_length",
                f"{context_length} tokens leave no room beside the tokenizer's special tokens",
                f"raise it to at least {context_length - self._content + 1}",
            )

    def tokenise(self, documents: Iterator[Document]) -> Iterator[tuple[Document, Ids]]:
        """Each document with its token ids, without the special tokens around it."""
        while batch := list(islice(documents, _DOCUMENTS_PER_CALL)):
            encoded = self._tokenizer(
                [document.text for document in batch],
                add_special_tokens=False,
                return_attention_mask=False,
                verbose=False,
            )
            for document, ids in zip(batch, encoded["input_ids"], strict=True):
                yield document, np.array(ids, dtype=np.int32)

    def sequences(self, ids: Ids, start: int = 0) -> Iterator[tuple[int, Sequence]]:
        """(tokens of the document before it, sequence) for each piece that ``ids[start:]`` touches.

        Pieces are cut at the same places whatever ``start`` is, so a document taken in two parts gives each token the
        same context as one taken whole.
        """
        for begin in range(start - start % self._content, len(ids), self._content):
            piece = ids[begin : begin + self._content]
            kept = np.flatnonzero(~np.isin(piece, self._special)).astype(np.int32)
            kept = kept[kept >= start - begin]
            if len(kept):
                whole = np.concatenate([self._prefix, piece, self._suffix])
                yield begin, Sequence(whole, kept + len(self._prefix))

    def token_index(self, begin: int, sequence: Sequence, nth: int) -> int:
        """Index in the document of the ``nth`` kept position of a sequence that begins at ``begin``."""
        return begin + int(sequence.kept[nth]) - len(self._prefix)


class TokenStream:
    """The training tokens: all documents but the held-out ones, in file order, ``limit`` kept tokens an epoch."""

    def __init__(
        self, documents: DocumentFile, maker: SequenceMaker, held_out: frozenset[int], limit: int | None
    ) -> None:
        self._documents = documents
        self._maker = maker
        self._held_out = held_out
        self._limit = limit

    def take(self, start: Position, n_tokens: int, *, wrap: bool) -> tuple[list[Sequence], Position]:
        """Exactly ``n_tokens`` kept tokens from ``start``, and the position after them.

        Without ``wrap`` fewer are given where the epoch ends, and the position is then the start of the next epoch,
        as it also is when the tokens end exactly there.
        """
        taken: list[Sequence] = []
        missing = n_tokens
        position = start
        while True:
            for here, begin, sequence in self._epoch_from(position):
                if missing == 0:
                    return taken, here
                if len(sequence.kept) > missing:
                    taken.append(Sequence(sequence.ids, sequence.kept[:missing]))
                    split = self._maker.token_index(begin, sequence, missing)
                    return taken, Position(here.epoch, here.mark, split, here.taken + missing)
                taken.append(sequence)
                missing -= len(sequence.kept)
            empty = position.taken == 0 and missing == n_tokens
            position = Position(epoch=position.epoch + 1)
            if not wrap or missing == 0 or empty:
                return taken, position

    def _epoch_from(self, start: Position) -> Iterator[tuple[Position, int, Sequence]]:
        """(position of its first kept token, index of its piece in the document, sequence) to the epoch's end."""
        left = None if self._limit is None else self._limit - start.taken
        passed = start.taken
        documents = self._documents.read(start.mark)
        training = (document for document in documents if document.start.document not in self._held_out)
        skip = start.token
        for document, ids in self._maker.tokenise(training):
            for begin, sequence in self._maker.sequences(ids, skip):
                if left == 0:
                    return
                if left is not None:
                    sequence = Sequence(sequence.ids, sequence.kept[:left])
                    left -= len(sequence.kept)
                first = self._maker.token_index(begin, sequence, 0)
                yield Position(start.epoch, document.start, first, passed), begin, sequence
                passed += len(sequence.kept)
            skip = 0


@dataclass(frozen=True)
class HeldOut:
    """Tokens set aside before training: whole documents that training never reads."""

    documents: frozenset[int]
    sequences: list[Sequence]


_WINDOW = 64
"""Held-out documents are drawn from a window this many times as large as what is needed, so that they resemble the
dataset without all of a large one having to be read first."""


def set_aside(documents: DocumentFile, maker: SequenceMaker, n_tokens: int, least_training: int, seed: int) -> HeldOut:
    """Draw documents at random until they hold ``n_tokens`` kept tokens; surplus tokens of the last are not used.

    Raises:
        UserError: the dataset does not hold ``n_tokens`` beside ``least_training`` tokens to train on.
    """
    pieces: dict[int, list[Sequence]] = {}
    tokens = 0
    window = max(n_tokens * _WINDOW, n_tokens + least_training)
    for document, ids in maker.tokenise(documents.read()):
        sequences = [sequence for _, sequence in maker.sequences(ids)]
        if not sequences:
            continue
        pieces[document.start.document] = sequences
        tokens += sum(len(sequence.kept) for sequence in sequences)
        if tokens >= window:
            break
    if tokens == 0:
        raise UserError("dataset", f"{documents.path} holds no text", "name a file that holds text")
    candidates = sorted(pieces)
    chosen: set[int] = set()
    drawn: list[Sequence] = []
    missing, spent = n_tokens, 0
    for nth in np.random.default_rng(seed).permutation(len(candidates)):
        if missing == 0:
            break
        chosen.add(candidates[nth])
        for sequence in pieces[candidates[nth]]:
            spent += len(sequence.kept)
            used = sequence.kept[:missing]
            if len(used):
                drawn.append(Sequence(sequence.ids, used))
                missing -= len(used)
    whole_dataset = tokens < window
    if missing or (whole_dataset and tokens - spent < least_training):
        raise UserError(
            "held_out_tokens" if tokens > least_training else "dataset",
            f"{documents.path} holds {tokens} tokens in {len(pieces)} documents: too few to set aside "
            f"{n_tokens} (in whole documents) and to train on one batch of {least_training}",
            "use a larger dataset or shorter documents, or lower held_out_tokens and batch_size",
        )
    return HeldOut(frozenset(chosen), drawn)


def _wrapping(tokenizer: PreTrainedTokenizerBase) -> tuple[Ids, Ids]:
    """Special tokens the tokenizer puts before and after a text, found by looking at a short one."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    wrapped = tokenizer("a")["input_ids"]
    for start in range(len(wrapped) - len(bare) + 1):
        if wrapped[start : start + len(bare)] == bare:
            return np.array(wrapped[:start], dtype=np.int32), np.array(wrapped[start + len(bare) :], dtype=np.int32)
    return np.array([], dtype=np.int32), np.array([], dtype=np.int32)
