"""Documents of a text file, streamed and addressable, so that reading can go on where it stood."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from worker_image.errors import UserError

TEXT_SUFFIXES = (".jsonl", ".txt")


@dataclass(frozen=True)
class Mark:
    """The start of a document in its dataset."""

    document: int = 0
    """How many documents come before."""
    offset: int = 0
    """Where in its file: bytes of a text file, rows of a table."""
    line: int = 1
    """Line or row number in its file, from 1, for messages."""
    file: int = 0
    """How many files of the dataset come before."""


FIRST = Mark()
"""The start of the dataset."""


@dataclass(frozen=True)
class Document:
    """One text."""

    start: Mark
    end: Mark
    """Where the next document starts."""
    text: str


class DocumentSource(Protocol):
    """One file of a dataset."""

    path: Path

    @property
    def text_bytes(self) -> int:
        """About how many bytes of text it holds."""
        ...

    def check(self) -> None:
        """Find out cheaply what can be known to be wrong.

        Raises:
            UserError: naming ``dataset`` or ``text_field``.
        """
        ...

    def read(self, start: Mark) -> Iterator[Document]:
        """Documents from ``start``, which lies in this file, to its end.

        Raises:
            UserError: naming ``dataset`` or ``text_field``, and the line.
        """
        ...


class TextFile:
    """A ``.jsonl`` file, an object a line with the text under ``text_field``; or a ``.txt`` file, split at blank lines.

    Blank lines and empty texts are no documents.
    """

    def __init__(self, path: Path, text_field: str) -> None:
        self.path = path
        self._text_field = text_field
        self.text_bytes = path.stat().st_size

    def check(self) -> None:
        """Nothing is known of a text file before it is read."""

    def read(self, start: Mark = FIRST) -> Iterator[Document]:
        return self._read_jsonl(start) if self.path.suffix == ".jsonl" else self._read_text(start)

    def _read_jsonl(self, start: Mark) -> Iterator[Document]:
        index, offset, number = start.document, start.offset, start.line
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                here = Mark(index, offset, number, start.file)
                offset += len(line)
                number += 1
                if line.strip() and (text := self._text_of(line, here.line)).strip():
                    index += 1
                    yield Document(here, Mark(index, offset, number, start.file), text)

    def _text_of(self, line: bytes, number: int) -> str:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reasons = {UnicodeDecodeError: "not UTF-8", RecursionError: "nested too deeply"}
            reason = error.msg if isinstance(error, json.JSONDecodeError) else reasons.get(type(error), str(error))
            raise UserError(
                "dataset",
                f"line {number} of {self.path} is not valid JSON: {reason}",
                "every line has to be one JSON object; mend or remove that line",
            ) from None
        if not isinstance(record, dict):
            raise UserError(
                "dataset",
                f"line {number} of {self.path} is {_kind_of(record)}, not a JSON object",
                f'write it as {{"{self._text_field}": "..."}}',
            )
        if self._text_field not in record:
            keys = ", ".join(sorted(record)[:10]) or "none"
            raise UserError(
                "text_field",
                f"line {number} of {self.path} has no key {self._text_field!r}; its keys: {keys}",
                "name the key that holds the text",
            )
        text = record[self._text_field]
        if not isinstance(text, str):
            raise UserError(
                "text_field",
                f"{self._text_field!r} in line {number} of {self.path} is {_kind_of(text)}, not a string",
                "name a key that holds text",
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(
                "dataset",
                f"line {number} of {self.path} holds half of a surrogate pair, which is no character",
                "mend or remove that line",
            ) from None
        return text

    def _read_text(self, start: Mark) -> Iterator[Document]:
        index, offset, number = start.document, start.offset, start.line
        here, paragraph = Mark(index, offset, number, start.file), b""
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                offset += len(line)
                number += 1
                if line.strip():
                    paragraph += line
                    continue
                if paragraph:
                    index += 1
                    after = Mark(index, offset, number, start.file)
                    yield Document(here, after, self._decode(paragraph, here.line))
                    paragraph = b""
                here = Mark(index, offset, number, start.file)
        if paragraph:
            after = Mark(index + 1, offset, number, start.file)
            yield Document(here, after, self._decode(paragraph, here.line))

    def _decode(self, paragraph: bytes, number: int) -> str:
        try:
            return paragraph.decode().strip()
        except UnicodeDecodeError:
            raise UserError(
                "dataset",
                f"the paragraph at line {number} of {self.path} is not UTF-8",
                "convert the file to UTF-8",
            ) from None


def _kind_of(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
