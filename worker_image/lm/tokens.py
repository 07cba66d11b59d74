"""Token sequences of a dataset: what the language model reads, and which of its positions are learned from."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from worker_image.errors import UserError
from worker_image.lm.documents import FIRST, Document, Mark

_DOCUMENTS_PER_CALL = 256
"""Documents tokenised together; the tokenizer spreads them over threads."""

Ids = np.ndarray[tuple[int], np.dtype[np.int32]]
Tokenised = tuple[Document, Ids]
"""A document and its token ids, without special tokens around them."""

Bos = Literal["auto", "always", "never"]
"""Whether sequences begin with the tokenizer's first special token: as the tokenizer does it, or in any case."""


class Documents(Protocol):
    """A dataset, as far as it is read here."""

    name: str

    def read(self, start: Mark = FIRST) -> Iterator[Document]:
        """Documents from ``start`` to the end."""
        ...


@dataclass(frozen=True)
class Sequence:
    """What the language model reads at once: pieces of documents in the special tokens it expects."""

    ids: Ids
    """With special tokens, without padding."""
    kept: Ids
    """Positions in ``ids`` to learn from, ascending."""


@dataclass(frozen=True)
class Position:
    """A place in the endless stream of training tokens, which repeats the dataset epoch after epoch."""

    epoch: int = 0
    mark: Mark = FIRST
    """Document the next token is in; of packed documents, the one that its sequence begins in."""
    token: int = 0
    """Tokens of that document already passed; of packed documents, before its sequence begins."""
    taken: int = 0
    """Kept tokens already passed in this epoch."""
    skip: int = 0
    """Kept tokens of its sequence already passed, of packed documents."""

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Position":
        return cls(**(data | {"mark": Mark(**data["mark"])}))


START = Position()
"""The first token of the dataset."""


@dataclass(frozen=True)
class Piece:
    """A sequence, and where in the dataset its kept tokens are."""

    sequence: Sequence
    mark: Mark
    token: int
    """Index in the document of the sequence's position 0, had it no prefix; of a packed one, of its first token."""
    passed: int | None = None
    """Kept tokens of it that were passed before, of a packed one."""

    def position(self, nth: int, epoch: int, taken: int) -> Position:
        """The position of its ``nth`` kept token."""
        if self.passed is not None:
            return Position(epoch, self.mark, self.token, taken, self.passed + nth)
        return Position(epoch, self.mark, self.token + int(self.sequence.kept[nth]), taken)


class SequenceMaker:
    """Makes sequences of at most ``context_length`` tokens of documents.

    ``packing`` fills every sequence: documents follow each other with a separator between them, and a sequence may
    begin within one. Otherwise each holds (part of) one document. ``bos``: ``auto`` leaves it to the tokenizer whether
    a sequence begins with its first special token. ``drop_first`` keeps no activation of a sequence's first position,
    which in many models is unlike all others.

    Raises:
        UserError: ``context_length`` leaves no room for text or is more than the model can read, or the tokenizer has
            no token to begin a sequence or to separate documents with.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        longest: int | None,
        *,
        packing: bool = False,
        bos: Bos = "auto",
        drop_first: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._special = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int32)
        self._prefix, self._suffix = _wrapping(tokenizer, bos)
        self._separator = _separator(tokenizer) if packing else None
        self._drop_first = drop_first
        self._content = context_length - len(self._prefix) - len(self._suffix)
        if longest is not None and context_length > longest:
            raise UserError(
                "context_length",
                f"the model reads at most {longest} tokens at once, not {context_length}",
                f"lower it to {longest}",
            )
        least = 2 if drop_first and not len(self._prefix) else 1
        if self._content < least:
            raise UserError(
                "context_length",
                f"{context_length} tokens leave no room beside the tokenizer's special tokens",
                f"raise it to at least {context_length - self._content + least}",
            )

    def tokenise(self, documents: Iterable[Document]) -> Iterator[Tokenised]:
        """Each document with its token ids, without the special tokens around it."""
        rest = iter(documents)
        while batch := list(islice(rest, _DOCUMENTS_PER_CALL)):
            encoded = self._tokenizer(
                [document.text for document in batch],
                add_special_tokens=False,
                return_attention_mask=False,
                verbose=False,
            )
            for document, ids in zip(batch, encoded["input_ids"], strict=True):
                yield document, np.array(ids, dtype=np.int32)

    def pieces(self, documents: Iterable[Tokenised], start: Position = START) -> Iterator[Piece]:
        """The sequences of ``documents``, of which the first is the one that ``start`` is in.

        A sequence is cut at the same places wherever reading starts, so one that is taken in two parts gives each
        token the same context as one taken whole.
        """
        if self._separator is not None:
            yield from self._packed(documents, start)
            return
        skip = start.token
        for document, ids in documents:
            yield from self.of_one(document, ids, skip)
            skip = 0

    def of_one(self, document: Document, ids: Ids, start: int = 0) -> Iterator[Piece]:
        """The sequences, not packed, that ``ids[start:]`` of a document touches."""
        for begin in range(start - start % self._content, len(ids), self._content):
            sequence = self._wrapped(ids[begin : begin + self._content])
            origin = begin - len(self._prefix)
            kept = sequence.kept[sequence.kept >= start - origin]
            if len(kept):
                yield Piece(Sequence(sequence.ids, kept), document.start, origin)

    def _packed(self, documents: Iterable[Tokenised], start: Position) -> Iterator[Piece]:
        pending: list[Ids] = []
        length = 0
        mark, token, skip = start.mark, start.token, start.skip
        for document, ids in documents:
            here = 0
            if document.start == start.mark:
                here = start.token
            if not len(ids):
                continue
            joined = np.concatenate([ids, self._separator])
            while here < len(joined):
                if not length:
                    mark, token = document.start, here
                part = joined[here : here + self._content - length]
                pending.append(part)
                length += len(part)
                here += len(part)
                if length == self._content:
                    yield from self._filled(pending, mark, token, skip)
                    pending, length, skip = [], 0, 0
        if pending:
            yield from self._filled(pending, mark, token, skip)

    def _filled(self, parts: list[Ids], mark: Mark, token: int, skip: int) -> Iterator[Piece]:
        sequence = self._wrapped(np.concatenate(parts))
        if len(sequence.kept) > skip:
            yield Piece(Sequence(sequence.ids, sequence.kept[skip:]), mark, token, skip)

    def _wrapped(self, content: Ids) -> Sequence:
        kept = np.flatnonzero(~np.isin(content, self._special)).astype(np.int32) + np.int32(len(self._prefix))
        if self._drop_first:
            kept = kept[kept > 0]
        return Sequence(np.concatenate([self._prefix, content, self._suffix]), kept)


class Stream(Protocol):
    """Pieces in a fixed order."""

    @property
    def limit(self) -> int | None:
        """Most kept tokens of an epoch; all of them when None."""
        ...

    def pieces(self, start: Position) -> Iterator[Piece]:
        """From ``start`` to the end of an epoch."""
        ...


class Cursor:
    """Takes tokens from a stream, going on where it stood."""

    def __init__(self, stream: Stream, position: Position) -> None:
        self._stream = stream
        self.position = position
        """Of the next token."""
        self._pieces: Iterator[Piece] | None = None
        self._piece: Piece | None = None
        """What was read, and not taken or only in part."""

    def take(self, n_tokens: int, *, wrap: bool) -> list[Sequence]:
        """Exactly ``n_tokens`` kept tokens.

        Without ``wrap`` fewer are given where the epoch ends, and the position is then the start of the next epoch,
        as it also is when the tokens end exactly there.
        """
        taken: list[Sequence] = []
        missing = n_tokens
        while True:
            piece = self._next_piece()
            if piece is None:
                empty = self.position.taken == 0 and missing == n_tokens
                self.position = Position(epoch=self.position.epoch + 1)
                if not wrap or missing == 0 or empty:
                    return taken
                continue
            self.position = piece.position(0, self.position.epoch, self.position.taken)
            if missing == 0:
                self._piece = piece
                return taken
            used = self._use(piece, missing)
            taken.append(used)
            missing -= len(used.kept)

    def _use(self, piece: Piece, missing: int) -> Sequence:
        """As many of its tokens as are missing; the position moves past them."""
        kept = piece.sequence.kept
        if len(kept) <= missing:
            self.position = replace(self.position, taken=self.position.taken + len(kept))
            return piece.sequence
        self.position = piece.position(missing, self.position.epoch, self.position.taken + missing)
        passed = None if piece.passed is None else piece.passed + missing
        self._piece = Piece(Sequence(piece.sequence.ids, kept[missing:]), piece.mark, piece.token, passed)
        return Sequence(piece.sequence.ids, kept[:missing])

    def _next_piece(self) -> Piece | None:
        """The next one of this epoch; None at its end."""
        piece, self._piece = self._piece, None
        if piece is None:
            self._pieces = self._pieces or self._stream.pieces(self.position)
            piece = next(self._pieces, None)
        left = None if self._stream.limit is None else self._stream.limit - self.position.taken
        if piece is None or left == 0:
            self._pieces = None
            return None
        if left is not None and len(piece.sequence.kept) > left:
            return replace(piece, sequence=Sequence(piece.sequence.ids, piece.sequence.kept[:left]))
        return piece


class TokenStream:
    """The training tokens: all documents but the held-out ones, in order, ``limit`` kept tokens an epoch."""

    def __init__(self, documents: Documents, maker: SequenceMaker, held_out: frozenset[int], limit: int | None) -> None:
        self._documents = documents
        self._maker = maker
        self._held_out = held_out
        self.limit = limit

    def take(self, start: Position, n_tokens: int, *, wrap: bool) -> tuple[list[Sequence], Position]:
        """What a cursor at ``start`` takes, and its position after that."""
        cursor = Cursor(self, start)
        return cursor.take(n_tokens, wrap=wrap), cursor.position

    def pieces(self, start: Position) -> Iterator[Piece]:
        """From ``start`` to the end of the dataset."""
        documents = self._documents.read(start.mark)
        training = (document for document in documents if document.start.document not in self._held_out)
        return self._maker.pieces(self._maker.tokenise(training), start)


@dataclass(frozen=True)
class HeldOut:
    """Tokens set aside before training: whole documents that training never reads."""

    documents: frozenset[int]
    sequences: list[Sequence]
    tokens_per_byte: float = 1.0
    """Kept tokens a byte of text, in the part of the dataset that was read."""
    limit: int | None = None

    def pieces(self, start: Position) -> Iterator[Piece]:
        """The sequences from ``start`` on: a stream of one epoch."""
        skip = start.skip
        for index, sequence in enumerate(self.sequences[start.mark.document :], start.mark.document):
            yield Piece(Sequence(sequence.ids, sequence.kept[skip:]), Mark(document=index), 0, skip)
            skip = 0


_WINDOW = 64
"""Held-out documents are drawn from a window this many times as large as what is needed, so that they resemble the
dataset without all of a large one having to be read first."""


def set_aside(documents: Documents, maker: SequenceMaker, n_tokens: int, least_training: int, seed: int) -> HeldOut:
    """Draw documents at random until they hold ``n_tokens`` kept tokens; surplus tokens of the last are not used.

    Raises:
        UserError: the dataset does not hold ``n_tokens`` beside ``least_training`` tokens to train on.
    """
    pieces: dict[int, tuple[Tokenised, list[Sequence]]] = {}
    tokens = text_bytes = 0
    window = max(n_tokens * _WINDOW, n_tokens + least_training)
    for document, ids in maker.tokenise(documents.read()):
        sequences = [piece.sequence for piece in maker.of_one(document, ids)]
        if not sequences:
            continue
        pieces[document.start.document] = ((document, ids), sequences)
        tokens += sum(len(sequence.kept) for sequence in sequences)
        text_bytes += len(document.text.encode())
        if tokens >= window:
            break
    if tokens == 0:
        raise UserError("dataset", f"{documents.name} holds no text", "name a file that holds text")
    candidates = sorted(pieces)
    chosen: list[Tokenised] = []
    drawn: list[Sequence] = []
    missing, spent = n_tokens, 0
    for nth in np.random.default_rng(seed).permutation(len(candidates)):
        if not missing:
            break
        tokenised, sequences = pieces[candidates[nth]]
        chosen.append(tokenised)
        spent += sum(len(sequence.kept) for sequence in sequences)
        # Packed anew with every further document, of which next to none are needed once there is enough.
        if spent >= n_tokens:
            drawn = _first(n_tokens, (piece.sequence for piece in maker.pieces(chosen)))
            missing = n_tokens - sum(len(sequence.kept) for sequence in drawn)
    whole_dataset = tokens < window
    if missing or (whole_dataset and tokens - spent < least_training):
        raise UserError(
            "held_out_tokens" if tokens > least_training else "dataset",
            f"{documents.name} holds {tokens} tokens in {len(pieces)} documents: too few to set aside "
            f"{n_tokens} (in whole documents) and to train on one batch of {least_training}",
            "use a larger dataset or shorter documents, or lower held_out_tokens and batch_size",
        )
    held_out = frozenset(document.start.document for document, _ in chosen)
    return HeldOut(held_out, drawn, tokens / text_bytes)


def _first(n_tokens: int, sequences: Iterable[Sequence]) -> list[Sequence]:
    """As many of them as hold the first ``n_tokens`` kept tokens."""
    found: list[Sequence] = []
    for sequence in sequences:
        if n_tokens == 0:
            break
        used = sequence.kept[:n_tokens]
        found.append(Sequence(sequence.ids, used))
        n_tokens -= len(used)
    return found


def _wrapping(tokenizer: PreTrainedTokenizerBase, bos: Bos) -> tuple[Ids, Ids]:
    """Special tokens that go before and after a text."""
    prefix, suffix = _own_wrapping(tokenizer)
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    if bos == "never":
        return prefix[prefix != first] if first is not None else prefix, suffix
    if bos == "always" and not (len(prefix) and prefix[0] == first):
        if first is None:
            raise UserError("bos", "the tokenizer has no token that begins a sequence", "set bos to auto or never")
        prefix = np.concatenate([np.array([first], dtype=np.int32), prefix])
    return prefix, suffix


def _own_wrapping(tokenizer: PreTrainedTokenizerBase) -> tuple[Ids, Ids]:
    """Those the tokenizer puts there, found by looking at a short text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    wrapped = tokenizer("a")["input_ids"]
    for start in range(len(wrapped) - len(bare) + 1):
        if wrapped[start : start + len(bare)] == bare:
            return np.array(wrapped[:start], dtype=np.int32), np.array(wrapped[start + len(bare) :], dtype=np.int32)
    return np.array([], dtype=np.int32), np.array([], dtype=np.int32)


def _separator(tokenizer: PreTrainedTokenizerBase) -> Ids:
    """What stands between packed documents."""
    ids = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id)
    found = next((token for token in ids if token is not None), None)
    if found is None:
        raise UserError("packing", "the tokenizer has no token to separate documents with", "set packing to false")
    return np.array([found], dtype=np.int32)
